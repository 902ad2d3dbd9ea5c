"""Every kind of image opens as the same upright RGB picture; every broken one says why it does not."""

from __future__ import annotations

import io
import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from image_cases import SIZE, broken_files, difference, encoded, photo, scene, seen
from PIL import Image, ImageOps, TiffImagePlugin

from captioner.data.images import open_image, open_photo, opening
from captioner.data.images.budget import Budget
from captioner.types import ImageError


@pytest.fixture(autouse=True)
def warnings_are_errors():
    """Nothing that Pillow warns of may leak."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize(
    ("format", "tolerance"),
    [
        *[(name, 0) for name in ("PNG", "BMP", "TIFF", "TGA", "PPM", "PCX", "SGI", "ICO", "DIB", "QOI")],
        *[(name, 6) for name in ("JPEG", "WEBP", "GIF", "JPEG2000", "AVIF", "MPO")],
    ],
)
def test_formats_give_the_same_picture(format, tolerance):
    if format not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {format}")
    options = {"sizes": [SIZE]} if format == "ICO" else {}
    opened = open_image(encoded(photo(), format, **options))
    assert opened.mode == "RGB"
    assert difference(opened, photo()) <= tolerance


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encoded(photo(), format, exif=exif, **({"quality": 95} if format == "JPEG" else {}))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(stored)))
    opened = open_image(stored)
    assert opened.size == (SIZE if orientation < 5 else SIZE[::-1])
    assert difference(opened, expected) == 0
    assert difference(open_image(opened), opened) == 0  # an upright image is not turned again
    assert difference(open_image(Image.open(io.BytesIO(stored))), opened) == 0  # not opened by us


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0"]
)
def test_broken_exif_leaves_the_photo_readable(exif):
    assert open_image(encoded(photo(), "JPEG", exif=exif)).size == SIZE


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame(format):
    frames = [Image.new("RGB", SIZE, colour) for colour in ("red", "lime", "blue")]
    stored = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(stored)).n_frames == 3
    assert difference(open_image(stored), frames[0]) < 3


def test_sources_agree(tmp_path):
    path = tmp_path / "ein Bär.png"
    photo().save(path)
    for source in (path, str(path), path.read_bytes(), photo(), np.asarray(photo())):
        assert difference(open_image(source), photo()) == 0


def test_sources_of_other_types():
    with pytest.raises(TypeError, match="list"):
        open_image([[1, 2], [3, 4]])


def test_the_callers_image_is_left_alone(tmp_path):
    image = photo()
    opened = open_image(image)
    opened.putpixel((0, 0), (1, 2, 3))
    assert image.tobytes() == photo().tobytes()


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3000, 60), (60, 3000)])
def test_extreme_shapes(size):
    assert open_image(encoded(Image.new("RGB", size), "PNG")).size == size


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_smaller_picture_shows_the_same_in_the_same_place(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encoded(scene(), format, exif=exif)
    whole = open_image(stored)
    for side, factor in ((150, 1), (66, 1), (65, 2), (33, 2), (32, 4), (9, 8), (1, 8)):
        photo = open_photo(stored, side)
        assert photo.size == whole.size
        assert photo.pixels.size == tuple(-(-length // factor) for length in whole.size)
        x0, y0, x1, y1 = photo.box
        assert ((x1 - x0) * factor, (y1 - y0) * factor) == whole.size
        if side >= 32:  # twice what it is seen at; without its box the difference would be 3.5
            assert difference(seen(photo.pixels, photo.box), seen(whole, (0, 0, *whole.size))) < 0.75


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_photos_come_smaller_too(mode):
    stored = encoded(scene().convert(mode), "JPEG")
    photo, whole = open_photo(stored, 40), open_image(stored)
    assert (photo.pixels.mode, photo.pixels.size) == ("RGB", (102, 66))
    assert difference(seen(photo.pixels, photo.box), seen(whole, (0, 0, *whole.size))) < 0.75


def test_what_is_not_large_keeps_all_its_pixels():
    for format in ("JPEG", "PNG"):
        stored = encoded(scene(), format)
        for side in (None, 66, 1000):
            photo = open_photo(stored, side)
            assert difference(photo.pixels, open_image(stored)) == 0
            assert photo.box == (0, 0, *photo.size) == (0, 0, 203, 131)


def test_the_decoder_of_a_jpeg_makes_no_more_pixels_than_are_needed(monkeypatch):
    monkeypatch.setattr(Image.Image, "reduce", lambda *args: pytest.fail("it was decoded whole"))
    assert open_photo(encoded(scene(), "JPEG"), 32).pixels.size == (51, 33)


def test_other_sources_come_smaller_and_are_left_alone():
    file = Image.open(io.BytesIO(encoded(scene(), "JPEG")))
    for source in (np.asarray(scene()), scene(), file):
        photo = open_photo(source, 32)
        assert (photo.size, photo.pixels.size, photo.box) == ((203, 131), (51, 33), (0, 0, 50.75, 32.75))
    assert (file.size, file.load()[202, 130]) == ((203, 131), file.getpixel((202, 130)))


@pytest.mark.parametrize("name", broken_files())
@pytest.mark.parametrize("as_bytes", [False, True])
def test_broken_files(name, as_bytes, tmp_path):
    data, word = broken_files()[name]
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        open_image(data if as_bytes else path)
    with pytest.raises(ImageError) as again:
        open_photo(data if as_bytes else path, 8)  # the decoder that makes less of it
    error = caught.value
    assert str(again.value) == str(error)
    assert word in error.reason
    assert "\n" not in error.reason
    assert error.name == ("bytes" if as_bytes else str(path))
    assert str(error) == f"{error.name}: {error.reason}"


def test_paths_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "nothing")
    reasons = {
        "missing.jpg": "no such file",
        "dangling.jpg": "no such file",
        "": "is a folder",
        "pipe.jpg": "not a regular file",
        "a\0b.jpg": "not a valid path",
        "a" * 5000: "too long",
    }
    for name, reason in reasons.items():
        with pytest.raises(ImageError, match=reason):
            open_image(f"{tmp_path}/{name}")


def test_no_permission(tmp_path, monkeypatch):
    path = tmp_path / "secret.png"
    photo().save(path)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)  # chmod does not stop a superuser
    with pytest.raises(ImageError, match="no permission"):
        open_image(path)


def test_bombs_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # Pillow warns above 100, raises above 200
    monkeypatch.setattr(opening, "MAX_PIXELS", 150)
    assert open_image(encoded(Image.new("L", (12, 12)), "PNG")).size == (12, 12)  # without a warning
    for side in (13, 20):
        with pytest.raises(ImageError, match="more pixels"):
            open_image(encoded(Image.new("L", (side, side)), "PNG"))
    with pytest.raises(ImageError, match="more pixels"):
        open_image(Image.new("L", (13, 13)))


def test_the_limit_lies_within_pillows_own():
    assert Image.MAX_IMAGE_PIXELS is not None
    assert opening.MAX_PIXELS <= 2 * Image.MAX_IMAGE_PIXELS


def test_random_damage_gives_a_picture_or_an_image_error():
    rng = np.random.default_rng(1)
    outcomes = set()
    for format in (
        "JPEG",
        "PNG",
        "GIF",
        "TIFF",
        "WEBP",
        "BMP",
        "TGA",
        "PCX",
        "SGI",
        "ICO",
        "JPEG2000",
        "PPM",
    ):
        data = np.frombuffer(encoded(photo(), format), np.uint8)
        for _ in range(20):
            damaged = data.copy()
            damaged[rng.integers(0, len(data), size=8)] = rng.integers(0, 256, size=8)
            try:
                outcomes.add(open_photo(damaged.tobytes(), 8).pixels.mode)
                outcomes.add(open_image(damaged.tobytes()).mode)
            except ImageError as error:
                outcomes.add(type(error.reason))
    assert outcomes == {"RGB", str}


def test_files_are_closed(tmp_path):
    good, bad = tmp_path / "good.gif", tmp_path / "bad.tif"
    frames = [Image.new("L", SIZE, level) for level in (0, 99)]
    good.write_bytes(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    bad.write_bytes(encoded(photo(), "TIFF")[:900])
    before = len(os.listdir("/dev/fd"))
    for _ in range(5):
        open_image(good)
        with pytest.raises(ImageError):
            open_image(bad)
    assert len(os.listdir("/dev/fd")) == before


def test_threads_hide_warnings_and_put_the_filters_back(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr(opening, "MAX_PIXELS", 200)
    data = encoded(photo().resize((14, 14)), "PNG")
    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:  # a warning that leaks is an error here
        sizes = {image.size for image in pool.map(open_image, [data] * 200)}
    assert sizes == {(14, 14)}
    assert warnings.filters == filters


def test_photos_that_are_not_read_say_what_to_do(tmp_path):
    heads = {
        "a.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", r"is a HEIC photo, .*: pip install 'captioner\[heif\]'"),
        "b": (b"\0\0\0\x0cJXL \r\n\x87\n", "is a JPEG XL image, .*: convert it to JPEG or PNG"),
        "c.cr3": (b"\0\0\0\x18ftypcrx \0\0\0\0", "is a camera's raw photo, .*: convert it to JPEG or TIFF"),
        "d.nef": (b"MM\0*\0\0\0\x08\xff\xff", "is a camera's raw photo"),
        "e.heic": (b"no image", "not an image, or damaged"),
    }
    for name, (head, reason) in heads.items():
        if name == "a.heic" and "HEIF" in opening.FORMATS:
            continue
        (tmp_path / name).write_bytes(head + b"\0" * 100)
        for source in (tmp_path / name, io.BytesIO(head + b"\0" * 100)):
            if name != "d.nef" or source == tmp_path / name:  # of bytes nobody knows the suffix
                with pytest.raises(ImageError, match=reason):
                    open_image(source)


def test_heic_photos_are_read_with_the_extra():
    pytest.importorskip("pillow_heif")
    assert difference(open_image(encoded(photo(), "HEIF", quality=100)), photo()) < 6


def test_a_raw_photo_s_preview_is_not_taken_for_it(tmp_path):
    """But a TIFF that is called so, or a smaller picture within one, is what it is."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[254] = 1
    photo().save(tmp_path / "preview.nef", "TIFF", tiffinfo=tags)
    photo().save(tmp_path / "small.tif", "TIFF", tiffinfo=tags)
    photo().save(tmp_path / "whole.dng", "TIFF")
    tags[50706] = b"\1\4\0\0"
    tags.tagtype[50706] = 1
    photo().save(tmp_path / "preview", "TIFF", tiffinfo=tags)
    for name in ("preview.nef", "preview"):
        with pytest.raises(ImageError, match="is a camera's raw photo"):
            open_image(tmp_path / name)
    for name in ("small.tif", "whole.dng"):
        assert difference(open_image(tmp_path / name), photo()) == 0


def test_bytes_of_any_kind():
    data = encoded(photo(), "PNG")
    for source in (data, bytearray(data), memoryview(data), memoryview(data + b"rest")[: len(data)], io.BytesIO(data)):
        assert difference(open_image(source), photo()) == 0
    with pytest.raises(ImageError, match="bytearray: the file is empty"):
        open_image(bytearray())


def test_paths_of_other_kinds(tmp_path):
    photo().save(tmp_path / "a.png")
    (entry,) = os.scandir(tmp_path)
    assert difference(open_image(entry), photo()) == 0


@pytest.mark.parametrize(
    ("format", "options", "mode", "num_bytes"),
    [
        ("PNG", {}, "RGBA", 4),
        ("PNG", {}, "L", 1),
        ("PNG", {}, "I;16", 2),
        ("PNG", {}, "P", 1),
        ("TIFF", {}, "CMYK", 4 + 4),
        ("WEBP", {}, "RGB", 4 + 13),
        ("JPEG", {"quality": 90}, "RGB", 4),
        ("JPEG", {"progressive": True}, "RGB", 4 + 6),
        ("GIF", {"save_all": True, "append_images": [photo()] * 3}, "P", 1),
    ],
)
def test_readers_share_what_decoding_takes(format, options, mode, num_bytes, monkeypatch):
    """Of all frames the first alone is decoded; a JPEG is as large as it is made, unless it is progressive."""
    held = []

    class Watched(Budget):
        def hold(self, num_bytes):
            held.append(num_bytes)
            return super().hold(num_bytes)

    monkeypatch.setattr(opening, "_decoded", Watched(1 << 30))
    image = Image.fromarray(np.zeros((64, 64), np.uint16)) if mode == "I;16" else scene(64, 64).convert(mode)
    data = encoded(image, format, **options)
    open_photo(data)
    assert held == [64 * 64 * (num_bytes + 8)]
    open_photo(data, 8)
    if format == "JPEG":
        assert held[1] == 64 * (4 + 8) + 64 * 64 * (num_bytes - 4)
    else:
        assert held[1] == 64 * 64 * num_bytes + 64 * 8


def test_readers_wait_for_one_another(monkeypatch):
    budget, most = Budget(2 * 64 * 64 * 12), []
    monkeypatch.setattr(opening, "_decoded", budget)
    original = opening.to_rgb
    monkeypatch.setattr(opening, "to_rgb", lambda *given: most.append(budget.held) or original(*given))
    data = encoded(scene(64, 64), "PNG")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(open_image, [data] * 40))
    assert len(most) == 40
    assert max(most) <= budget.num_bytes


def long_notes(format: str) -> dict[str, object]:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff damaged"
    return {"exif": exif, "icc_profile": b"x" * 60_000, **({} if format == "TIFF" else {"xmp": b"x" * 60_000})}


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "TIFF", "AVIF"])
def test_notes_that_are_long_or_damaged_do_no_harm(format):
    if format not in Image.SAVE:
        pytest.skip(f"this Pillow does not write {format}")
    notes = long_notes(format)
    if format == "TIFF":
        del notes["exif"]
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[700] = b"x" * (3 << 20)  # XMP
        tags[34665] = 99_999_999  # EXIF lies beyond the end
        notes["tiffinfo"] = tags
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = encoded(photo(), format, **notes)
    assert difference(open_image(data), photo()) < 6


def test_the_memory_of_large_images_is_handed_back(monkeypatch):
    handed = []
    monkeypatch.setattr(opening, "hand_back", lambda: handed.append(opening._decoded.held))
    data = encoded(scene(64, 64), "PNG")
    open_photo(data)
    monkeypatch.setattr(opening, "LARGE", 64 * 64 * 12 - 1)
    open_photo(data)
    open_photo(scene(64, 64))  # is the caller's
    assert handed == [64 * 64 * 12]
