"""Packing: what goes in comes out again, in a zip that is small enough; and a zip from elsewhere can do no harm."""

from __future__ import annotations

import json
import shutil
import zipfile

import numpy as np
import pytest

from benchmarks.pack import ANNOTATIONS, main, pack, unpack
from benchmarks.workload import make_photo
from captioner.data import ImageTransform, open_image
from captioner.data.readers import CaptionFolder, SyntheticShapes

SIDE = 48
NUM_TRAIN, NUM_DEV = 7, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set with photos of many shapes, in a folder."""
    root = tmp_path_factory.mktemp("data")
    lines = ["image,caption,split"]
    for number in range(NUM_TRAIN + NUM_DEV):
        make_photo(number, 60 + 7 * number, 90).save(root / f"{number}.png")
        split = "train" if number < NUM_TRAIN else "val"
        lines += [f'{number}.png,"a photo, the {word} of {number}",{split}' for word in ("one", "naïve other")]
    (root / "captions.csv").write_text("\n".join(lines))
    return root


def captions(reader, split):
    return [item.captions for item in reader.read(split)]


def content(path):
    """Each file of a zip."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_captions_and_splits_come_out_as_they_went_in(folder, tmp_path):
    reader = CaptionFolder(str(folder))
    packed = pack([reader], tmp_path / "photos.zip", SIDE)
    assert packed.num_photos == {"train": NUM_TRAIN, "val": NUM_DEV}
    assert packed.num_bytes == (tmp_path / "photos.zip").stat().st_size
    again = unpack(tmp_path / "photos.zip", tmp_path / "unpacked")
    for split in ("train", "val"):
        assert captions(again, split) == captions(reader, split)
    assert again.read("dev") == again.read("val")


def test_photos_are_what_the_transform_makes_of_them(folder, tmp_path):
    reader, transform = CaptionFolder(str(folder)), ImageTransform(SIDE, "squash")
    pack([reader], tmp_path / "photos.zip", SIDE)
    again = unpack(tmp_path / "photos.zip", tmp_path / "unpacked")
    for item, copied in zip(reader.read("train"), again.read("train"), strict=True):
        photo = transform.photo(item.path)
        expected, found = transform.fitted(photo.pixels, photo.box), open_image(copied.path)
        assert found.size == (SIDE, SIDE)
        difference = np.asarray(found, dtype=float) - np.asarray(expected, dtype=float)
        assert np.abs(difference).mean() < 12  # the quality is high where there is room


def test_the_same_data_give_the_same_bytes(folder, tmp_path):
    for name in ("one.zip", "two.zip"):
        pack([CaptionFolder(str(folder))], tmp_path / name, SIDE, num_train=5)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


@pytest.mark.parametrize("max_mb", [0.006, 0.008, 0.012])
def test_the_quality_is_the_highest_that_fits(folder, tmp_path, max_mb):
    packed = pack([CaptionFolder(str(folder))], tmp_path / "photos.zip", SIDE, max_mb)
    assert 0.7 * max_mb < packed.num_bytes / 1e6 <= max_mb
    assert 5 <= packed.quality < 95


def test_a_sample_that_says_too_little_makes_no_file_too_large(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.pack.SAMPLE", 2)
    monkeypatch.setattr("benchmarks.pack.DEVIATIONS", -3.0)
    packed = pack([CaptionFolder(str(folder))], tmp_path / "photos.zip", SIDE, 0.007)
    assert 0.7 * 0.007 < packed.num_bytes / 1e6 <= 0.007


def test_photos_that_do_not_fit_are_refused(folder, tmp_path):
    path = tmp_path / "photos.zip"
    with pytest.raises(ValueError, match=r"9 photos of 48 x 48 pixels take [0-9.]+ MB at quality 5") as caught:
        pack([CaptionFolder(str(folder))], path, SIDE, 0.002)
    assert all(option in str(caught.value) for option in ("--train", "--side", "--max-mb"))
    assert not path.exists()


def test_photos_of_several_data_sets_do_not_clash(folder, tmp_path):
    shapes = SyntheticShapes(tmp_path / "shapes", num_train=4, num_dev=2, size=32)
    readers = [shapes, CaptionFolder(str(folder)), shapes]
    packed = pack(readers, tmp_path / "photos.zip", SIDE)
    assert packed.num_photos == {"train": 4 + NUM_TRAIN + 4, "val": 2 + NUM_DEV + 2}
    again = unpack(tmp_path / "photos.zip", tmp_path / "unpacked")
    assert captions(again, "val") == [of_one for reader in readers for of_one in captions(reader, "dev")]


def test_a_draw_keeps_the_order_and_depends_on_the_seed(folder, tmp_path):
    reader = CaptionFolder(str(folder))
    drawn = []
    for seed in (0, 1):
        pack([reader], tmp_path / "photos.zip", SIDE, num_train=5, num_dev=1, seed=seed)
        again = unpack(tmp_path / "photos.zip", tmp_path / str(seed))
        assert [len(captions(again, split)) for split in ("train", "val")] == [5, 1]
        drawn.append(captions(again, "train"))
    assert all(of_seed == [one for one in captions(reader, "train") if one in of_seed] for of_seed in drawn)
    assert drawn[0] != drawn[1]


def test_a_broken_photo_is_left_out_and_named(folder, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(folder, root)
    (root / "3.png").write_bytes(b"no photo")
    output = tmp_path / "photos.zip"
    assert main(["--data", str(root), "--output", str(output), "--side", str(SIDE)]) == 1
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1
    assert str(root / "3.png") in err
    assert f"{NUM_TRAIN - 1} photos of train and {NUM_DEV} photos of val, {SIDE} x {SIDE} pixels, quality" in out
    kept = captions(CaptionFolder(str(root)), "train")
    assert captions(unpack(output, tmp_path / "unpacked"), "train") == kept[:3] + kept[4:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "{root}/nowhere"], "no such folder of data"),
        (["--data", "{root}", "--max-mb", "0.001"], "at quality 5"),
        (["--data", "{root}", "--max-mb", "0"], "max_mb must be more than 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder, tmp_path, capsys, arguments, message):
    output = tmp_path / "photos.zip"
    assert main([argument.format(root=folder) for argument in arguments] + ["--output", str(output)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("captioner: error: ")
    assert message in err
    assert not output.exists()


def test_a_data_set_without_validation_photos_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="no data set has captioned photos in a split 'dev' or 'val'"):
        pack([CaptionFolder(str(folder), dev_fraction=0.0, file=_without_splits(folder))], tmp_path / "photos.zip")


def _without_splits(folder) -> str:
    lines = (folder / "captions.csv").read_text().splitlines()
    (folder / "bare.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines))
    return "bare.csv"


# ------------------------------------------------------------------------------------------ zips from elsewhere


def rewritten(path, changes, twice=()):
    """The same zip with other files in it; None takes one away."""
    files = {**content(path), **changes}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in [*files.items(), *((name, files[name]) for name in twice)]:
            if data is not None:
                archive.writestr(zipfile.ZipInfo(name), data)


def listing(*names):
    images = [{"filename": name, "split": "train", "sentences": [{"raw": "a photo"}]} for name in names]
    return json.dumps({"images": images}).encode()


UNSAFE = {
    "outside": ({"../outside.webp": b""}, "it holds '../outside.webp'"),
    "absolute": ({"/tmp/absolute.webp": b""}, "it holds '/tmp/absolute.webp'"),
    "through the folder of the photos": ({"images/../../x.webp": b""}, "it holds 'images/../../x.webp'"),
    "another kind of file": ({"images/000000.py": b""}, "it holds 'images/000000.py'"),
    "no annotations": ({ANNOTATIONS: None}, f"it holds no {ANNOTATIONS}"),
    "no JSON": ({ANNOTATIONS: b"{"}, "damaged"),
    "another format": ({ANNOTATIONS: b'{"pictures": []}'}, "not in Karpathy's format"),
    "photos elsewhere": ({ANNOTATIONS: listing("../../etc/photo.webp")}, "lists other photos"),
    "a photo too few": ({"images/000001.webp": None}, "lists other photos"),
    "a photo too many": ({"images/000099.webp": b""}, "lists other photos"),
    "a huge photo": ({"images/000000.webp": bytes(10_000_001)}, "'images/000000.webp' is 10,000,001 bytes"),
}


@pytest.fixture
def packed(tmp_path):
    shapes = SyntheticShapes(tmp_path / "shapes", num_train=2, num_dev=1, size=32)
    pack([shapes], tmp_path / "photos.zip", 32)
    return tmp_path / "photos.zip"


@pytest.mark.parametrize("what", UNSAFE)
def test_a_zip_that_is_not_ours_is_refused(packed, tmp_path, what):
    changes, message = UNSAFE[what]
    rewritten(packed, changes)
    with pytest.raises(ValueError, match="not a zip that benchmarks/pack.py wrote") as caught:
        unpack(packed, tmp_path / "within" / "unpacked")
    assert message in str(caught.value)
    assert not (tmp_path / "within").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice_is_refused(packed, tmp_path):
    rewritten(packed, {}, twice=["images/000001.webp"])
    with pytest.raises(ValueError, match="'images/000001.webp' twice"):
        unpack(packed, tmp_path / "unpacked")


def test_a_damaged_zip_is_refused(packed, tmp_path):
    data = bytearray(packed.read_bytes())
    data[200] ^= 1  # within a photo
    packed.write_bytes(data)
    with pytest.raises(ValueError, match="damaged"):
        unpack(packed, tmp_path / "unpacked")
    assert not (tmp_path / "unpacked" / ANNOTATIONS).exists()
    packed.write_bytes(data[:300])
    with pytest.raises(ValueError, match="damaged"):
        unpack(packed, tmp_path / "unpacked")


def test_a_zip_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.zip: no such file"):
        unpack(tmp_path / "nowhere.zip", tmp_path / "unpacked")
