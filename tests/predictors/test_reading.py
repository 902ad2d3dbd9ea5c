"""Photos are read one batch ahead; broken ones do not stop the others."""

from __future__ import annotations

import weakref

import pytest

from captioner.data import ImageError
from captioner.decoding import BeamSearch, GreedySearch


def test_broken_photos_do_not_stop_a_stream(model, album, good_names, broken_names):
    paths = [album / name for name in (*good_names[:3], *broken_names, *good_names[3:])]
    results = list(model.stream(paths, BeamSearch(2), batch_size=4))
    assert [path for path, _ in results] == paths
    failed = {str(path.relative_to(album)): result for path, result in results if isinstance(result, ImageError)}
    assert failed.keys() == broken_names.keys()
    assert all(failed[name].reason.startswith(reason) for name, reason in broken_names.items())
    assert len({result.text for _, result in results if not isinstance(result, ImageError)}) > 3

    with pytest.raises(ImageError, match=r"half\.png: damaged"):
        model.caption([album / "half.png"])


def test_a_stream_reads_no_further_than_one_batch_ahead(model, draw):
    taken = []
    photos = (taken.append(seed) or draw(seed) for seed in range(100))
    stream = model.stream(photos, GreedySearch(), batch_size=2)
    next(stream)
    assert len(taken) <= 4
    stream.close()


def test_a_stream_holds_no_more_than_two_batches(model, draw):
    photos, captions, most = [], [], 0

    def drawn():
        for seed in range(24):
            photo = draw(seed)
            photos.append(weakref.ref(photo))
            yield photo

    for photo, caption in model.stream(drawn(), GreedySearch(), batch_size=3):
        captions.append(weakref.ref(caption))
        del photo, caption
        alive = [sum(reference() is not None for reference in given) for given in (photos, captions)]
        assert alive[0] <= 2 * 3 + 1  # one more than is held: the last that was given out
        assert alive[1] <= 3 + 1
        most = max(most, alive[0])
    assert most >= 2 * 3  # it does read ahead
    assert len(captions) == 24
