"""Readers give images with captions from each data set's own files, and say what is wrong with them."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from captioner.data.readers import (
    CaptionFolder,
    CocoCaptions,
    Flickr8k,
    KarpathySplit,
    Reader,
    find_reader,
)
from captioner.types import CaptionedImage


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write_flickr8k(root: Path) -> Path:
    text = root / "Flickr8k_text"
    text.mkdir(parents=True)
    lines = ["1_a.jpg#0\tA dog .", "1_a.jpg#1\t  The dog runs . ", "2258277193_586949ec62.jpg.1#0\tA stray ."]
    lines += ["2_b.jpg#0\tA cat\twith a tab", "2_b.jpg#1\t ", "3_c.jpg#0\tA bird ."]
    (text / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    (text / "Flickr_8k.trainImages.txt").write_text("2_b.jpg\n1_a.jpg\n")
    (text / "Flickr_8k.devImages.txt").write_text("3_c.jpg\r\n\r\n")
    touch(*(root / "Flicker8k_Dataset" / name for name in ("1_a.jpg", "2_b.jpg", "3_c.jpg")))
    return root


def coco_json(ids: list[int]) -> dict:
    return {
        "info": {},
        "images": [{"id": number, "file_name": f"{number:012}.jpg"} for number in ids],
        "annotations": [
            {"id": 10 * number + k, "image_id": number, "caption": f" Caption {k} of {number}.\n"}
            for number in reversed(ids)
            for k in range(2)
        ]
        + [{"id": 1, "image_id": ids[0], "caption": " "}],
    }


def write_coco(root: Path) -> Path:
    (root / "annotations").mkdir(parents=True)
    for split, ids in (("train", [9, 4]), ("val", [7])):
        (root / f"annotations/captions_{split}2017.json").write_text(json.dumps(coco_json(ids)))
        touch(*(root / f"{split}2017" / f"{number:012}.jpg" for number in ids))
    (root / "annotations/captions_test2017.json").write_text("never read: there are no images of it")
    return root


def karpathy_json(coco: bool) -> dict:
    entries = []
    for number, split in enumerate(["train", "restval", "val", "test", "train"]):
        entry = {"filename": f"{number}.jpg", "imgid": number, "split": split, "sentids": [number]}
        entry["sentences"] = [
            {"raw": f"Photo {number}. ", "tokens": ["photo", str(number)]},
            {"raw": "", "tokens": []},
        ]
        if coco:
            entry |= {"cocoid": 100 + number, "filepath": "val2014" if split != "train" else "train2014"}
        entries.append(entry)
    return {"images": entries, "dataset": "coco" if coco else "flickr8k"}


def write_karpathy(root: Path, coco: bool = False, images: str = "Flicker8k_Dataset") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    content = karpathy_json(coco)
    (root / f"dataset_{content['dataset']}.json").write_text(json.dumps(content))
    touch(*(root / images / entry.get("filepath", "") / entry["filename"] for entry in content["images"]))
    return root


def write_folder(
    root: Path, text: str, file: str = "captions.csv", images: tuple[str, ...] = ("a.jpg", "b.jpg")
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(text, encoding="utf-8")
    touch(*(root / name for name in images))
    return root


def captions_of(items: list[CaptionedImage]) -> dict[int | str, tuple[str, ...]]:
    return {item.image_id: item.captions for item in items}


# ---------------------------------------------------------------------------- what every reader does

WRITERS = {
    "flickr8k": write_flickr8k,
    "coco": write_coco,
    "karpathy": write_karpathy,
    "karpathy coco": lambda root: write_karpathy(root, coco=True, images="images"),
    "csv": lambda root: write_folder(root, "image,caption\na.jpg,one\nb.jpg,two\na.jpg,three\n"),
}


@pytest.fixture(params=WRITERS)
def reader(request, tmp_path) -> Reader:
    """A reader of every kind, as `find_reader` finds it."""
    return find_reader(WRITERS[request.param](tmp_path / "data"))


def test_every_split_can_be_read(reader):
    for split in reader.splits:
        items = reader.read(split)
        assert items
        assert len({item.image_id for item in items}) == len(items)
        for item in items:
            assert item.path.is_file()
            assert item.captions
            assert all(caption == caption.strip() != "" for caption in item.captions)


def test_the_splits_for_learning_and_choosing_share_no_image(reader):
    paths = [item.path for split in ("train", "dev") for item in reader.read(split)]
    assert len(set(paths)) == len(paths)


def test_dev_and_val_are_the_same(reader):
    assert reader.read("dev") == reader.read("val") == reader.read("validation")


def test_an_unknown_split_names_those_there_are(reader):
    with pytest.raises(ValueError, match="no split 'holdout'") as caught:
        reader.read("holdout")
    assert all(split in str(caught.value) for split in reader.splits)


def test_missing_images_are_counted(reader):
    items = reader.read("train")
    for item in items:
        item.path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{len(items)} of {len(items)} images are missing") as caught:
        reader.read("train")
    assert str(items[0].path) in str(caught.value)


def test_readers_are_values(reader):
    assert pickle.loads(pickle.dumps(reader)) == reader
    assert type(reader)(**vars(reader)) == reader
    assert eval(repr(reader)) == reader


# ------------------------------------------------------------------------------------------ Flickr8k


def test_flickr8k(tmp_path):
    reader = Flickr8k(write_flickr8k(tmp_path))
    assert reader.splits == ("train", "dev")
    assert list(captions_of(reader.read("train")).items()) == [
        ("2_b.jpg", ("A cat\twith a tab",)),
        ("1_a.jpg", ("A dog .", "The dog runs .")),
    ]
    assert reader.read("dev") == [CaptionedImage("3_c.jpg", tmp_path / "Flicker8k_Dataset/3_c.jpg", ("A bird .",))]


def test_flickr8k_texts_may_lie_beside_the_images(tmp_path):
    write_flickr8k(tmp_path)
    expected = Flickr8k(tmp_path).read("train")
    for path in (tmp_path / "Flickr8k_text").iterdir():
        path.rename(tmp_path / path.name)
    (tmp_path / "Flickr8k_text").rmdir()
    assert find_reader(tmp_path).read("train") == expected


def test_flickr8k_malformed_line(tmp_path):
    write_flickr8k(tmp_path)
    with open(tmp_path / "Flickr8k_text/Flickr8k.token.txt", "a") as file:
        file.write("no tab here\n")
    with pytest.raises(ValueError, match=r"token\.txt, line 7.*no tab here"):
        Flickr8k(tmp_path).read("dev")


# ---------------------------------------------------------------------------------------------- COCO


def test_coco(tmp_path, capsys):
    reader = find_reader(write_coco(tmp_path))
    assert isinstance(reader, CocoCaptions)
    assert reader.splits == ("train", "val")
    items = reader.read("train")
    assert [item.image_id for item in items] == [9, 4]  # integers, in the file's order
    assert items[0].captions == ("Caption 0 of 9.", "Caption 1 of 9.")
    assert items[0].path == tmp_path / "train2017/000000000009.jpg"
    assert capsys.readouterr() == ("", "")


def test_coco_of_two_years_keeps_their_names(tmp_path):
    write_coco(tmp_path)
    (tmp_path / "annotations/captions_val2014.json").write_text(json.dumps(coco_json([5])))
    touch(tmp_path / "images/val2014/000000000005.jpg")
    reader = find_reader(tmp_path)
    assert reader.splits == ("train2017", "val2014", "val2017")
    assert captions_of(reader.read("val2014")).keys() == {5}


def test_coco_in_small(tmp_path):
    (tmp_path / "captions.json").write_text(json.dumps(coco_json([3, 2])))
    touch(tmp_path / "images/000000000003.jpg", tmp_path / "images/000000000002.jpg")
    reader = find_reader(tmp_path)
    assert reader.splits == ("all",)
    assert captions_of(reader.read("all")).keys() == {3, 2}


def test_coco_test_set_without_captions(tmp_path):
    content = coco_json([3])
    del content["annotations"]
    (tmp_path / "test.json").write_text(json.dumps(content))
    touch(tmp_path / "000000000003.jpg")
    items = CocoCaptions({"test": str(tmp_path / "test.json")}, {"test": str(tmp_path)}).read("test")
    assert captions_of(items) == {3: ()}


@pytest.mark.parametrize(
    "content",
    [
        *["", "{", "[]", "{}", '{"images": 3}', '{"images": [{"file_name": "a.jpg"}]}', '{"images": [{"id": 1}]}'],
        '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"id": 2, "image_id": 1}]}',
        '{"images": [{"id": 1, "file_name": "a"}], "annotations": [{"id": 2, "image_id": 1, "caption": 5}]}',
    ],
)
def test_coco_malformed(content, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"bad\.json"):
        CocoCaptions({"val": str(path)}, {"val": str(tmp_path)}).read("val")


def test_coco_arguments_must_match(tmp_path):
    with pytest.raises(ValueError, match="same splits"):
        CocoCaptions({"train": "a.json"}, {"val": "images"})


# ------------------------------------------------------------------------------------------ Karpathy


@pytest.mark.parametrize("coco", [False, True])
def test_karpathy(coco, tmp_path):
    write_karpathy(tmp_path, coco, images="pictures")
    file = tmp_path / ("dataset_coco.json" if coco else "dataset_flickr8k.json")
    reader = KarpathySplit(file, tmp_path / "pictures")
    ids = [100, 101, 104] if coco else ["0.jpg", "1.jpg", "4.jpg"]
    assert captions_of(reader.read("train")) == dict(
        zip(ids, [("Photo 0.",), ("Photo 1.",), ("Photo 4.",)], strict=True)
    )
    assert [item.path.name for item in reader.read("test")] == ["3.jpg"]
    if coco:
        assert reader.read("val")[0].path == tmp_path / "pictures/val2014/2.jpg"


def test_karpathy_without_restval(tmp_path):
    write_karpathy(tmp_path)
    reader = KarpathySplit(tmp_path / "dataset_flickr8k.json", tmp_path / "Flicker8k_Dataset", restval=False)
    assert reader.splits == ("train", "val", "test", "restval")
    assert [item.image_id for item in reader.read("train")] == ["0.jpg", "4.jpg"]
    assert [item.image_id for item in reader.read("restval")] == ["1.jpg"]


@pytest.mark.parametrize("images", [".", "images", "flickr30k-images"])
def test_karpathys_images_are_found(images, tmp_path):
    write_karpathy(tmp_path, images=images)
    assert len(find_reader(tmp_path).read("train")) == 3


def test_karpathys_archive_of_three_files_takes_the_one_with_images(tmp_path):
    write_karpathy(tmp_path)
    (tmp_path / "dataset_coco.json").write_text(json.dumps(karpathy_json(coco=True)))
    reader = find_reader(tmp_path)
    assert isinstance(reader, KarpathySplit)
    assert str(reader.annotations).endswith("dataset_flickr8k.json")


@pytest.mark.parametrize(
    "content",
    [
        *["{", "[]", '{"images": 3}', '{"images": [1]}', '{"images": [{"filename": "a"}]}'],
        '{"images": [{"split": "val", "filename": "a.jpg"}]}',
        '{"images": [{"split": "val", "filename": "a.jpg", "sentences": [{"tokens": []}]}]}',
        '{"images": [{"split": "val", "filename": "a.jpg", "sentences": [{"raw": null}]}]}',
    ],
)
def test_karpathy_malformed(content, tmp_path):
    path = tmp_path / "dataset_bad.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"dataset_bad\.json"):
        KarpathySplit(path, tmp_path).read("val")


@pytest.mark.parametrize("content", ["{", "[]", '{"images": []}', '{"images": [{}]}'])
def test_a_folder_with_a_malformed_karpathy_file(content, tmp_path):
    (tmp_path / "dataset_bad.json").write_text(content)
    with pytest.raises(ValueError, match=r"dataset_bad\.json"):
        find_reader(tmp_path)


def test_a_split_without_images_is_an_error(tmp_path):
    write_karpathy(tmp_path)
    path = tmp_path / "dataset_flickr8k.json"
    path.write_text(path.read_text().replace('"val"', '"train"'))
    with pytest.raises(ValueError, match="'val' holds no images"):
        find_reader(tmp_path).read("val")


# ------------------------------------------------------------------------------------- caption folders

EXPECTED = {"a.jpg": ("one, really", "three"), "b.jpg": ('say "two"',)}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("captions.csv", 'image,caption\na.jpg,"one, really"\nb.jpg,"say ""two"""\na.jpg,three\n'),
        (
            "captions.csv",
            '\ufeffFileName , Caption\r\n a.jpg , "one, really"\r\nb.jpg,"say ""two"""\r\n\r\na.jpg,three',
        ),
        (
            "captions.csv",
            'n;text;path\n1; one, really;a.jpg\n2;"say ""two""";b.jpg\n3;three;a.jpg\n4; ;b.jpg\n',
        ),
        ("captions.tsv", 'image_id\tcaption\na.jpg\tone, really\nb.jpg\t"say ""two"""\na.jpg\tthree\n'),
        (
            "captions.txt",
            'image_name| n| comment\na.jpg| 0| one, really\nb.jpg| 0| "say ""two"""\na.jpg| 1| three\n',
        ),
        (
            "captions.jsonl",
            '{"image": "a.jpg", "caption": "one, really"}\n{"image": "b.jpg", "caption": "say \\"two\\""}\n\n'
            '{"image": "a.jpg", "caption": "three", "log_prob": -1}\n',
        ),
        (
            "captions.jsonl",
            '{"file_name": "a.jpg", "captions": ["one, really", " three", ""]}\n'
            '{"path": "b.jpg", "text": "say \\"two\\""}',
        ),
    ],
)
def test_caption_folder_forms(file, text, tmp_path):
    reader = find_reader(write_folder(tmp_path, text, file))
    assert captions_of(reader.read("all")) == EXPECTED


def test_caption_folder_with_splits(tmp_path):
    text = "image,caption,split\na.jpg,one,train\nb.jpg,two,validation\na.jpg,three,train\n"
    reader = CaptionFolder(write_folder(tmp_path, text))
    assert reader.splits == ("train", "validation", "all")
    assert captions_of(reader.read("train")) == {"a.jpg": ("one", "three")}
    assert captions_of(reader.read("dev")) == {"b.jpg": ("two",)}


def test_caption_folder_takes_a_named_file_and_folder(tmp_path):
    write_folder(tmp_path, "image,caption\nx/a.jpg,one\n", "mine.csv", ("photos/x/a.jpg", "a.jpg"))
    for reader in (CaptionFolder(tmp_path, "mine.csv", "photos"), CaptionFolder(tmp_path, "mine.csv")):
        assert reader.read("all") == [CaptionedImage("x/a.jpg", tmp_path / "photos/x/a.jpg", ("one",))]
    with pytest.raises(FileNotFoundError, match=r"captions\.csv"):
        CaptionFolder(tmp_path).read("all")


def numbered(count: int, start: int = 0) -> str:
    return "image,caption\n" + "".join(f"{number}.jpg,a caption\n" for number in range(start, count))


def split_sizes(reader: CaptionFolder) -> dict[str, int]:
    return {split: len(reader.items(split)) for split in reader.splits}


def test_dev_is_a_share_of_the_images(tmp_path):
    sizes = split_sizes(CaptionFolder(write_folder(tmp_path, numbered(2000))))
    assert sizes["train"] + sizes["dev"] == sizes["all"] == 2000
    assert 140 < sizes["dev"] < 260
    assert 900 < split_sizes(CaptionFolder(tmp_path, dev_fraction=0.5))["dev"] < 1100
    assert split_sizes(CaptionFolder(tmp_path, dev_fraction=0)) == {"train": 2000, "all": 2000}


def test_more_images_in_another_order_move_none_between_splits(tmp_path):
    reader = CaptionFolder(write_folder(tmp_path, numbered(300)))
    before = {item.image_id for item in reader.items("dev")}
    header, *rows = numbered(900).splitlines()
    (tmp_path / "captions.csv").write_text("\n".join([header, *reversed(rows)]))
    after = {item.image_id for item in reader.items("dev")}
    assert before < after
    assert not after & {f"{number}.jpg" for number in range(300)} - before


@pytest.mark.parametrize("count", range(2, 12))
def test_a_small_folder_has_both_splits(count, tmp_path):
    sizes = split_sizes(CaptionFolder(write_folder(tmp_path, numbered(count))))
    assert sizes["train"] >= 1
    assert sizes["dev"] >= 1


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("captions.csv", "", "line 1: no column image"),
        (
            "captions.csv",
            "picture,caption\na.jpg,one\n",
            "line 1: no column image.*there are: picture, caption",
        ),
        ("captions.csv", "image,words\na.jpg,one\n", "line 1: no column caption"),
        (
            "captions.csv",
            "image,caption\na.jpg,one\nb.jpg,two, three\n",
            "line 3: 3 columns where the header has 2",
        ),
        ("captions.csv", "image,caption\na.jpg\n", "line 2: 1 columns"),
        ("captions.csv", "image,caption\n ,one\n", "line 2: the image's name is missing"),
        ("captions.csv", 'image,caption\na.jpg,one\nb.jpg,"two\n', "line 3: malformed"),
        ("captions.csv", 'image,caption\na.jpg,"one\nmore"\nb.jpg\n', "line 4: 1 columns"),
        (
            "captions.csv",
            "image,caption,split\na.jpg,one,train\na.jpg,one,dev\n",
            "line 3: 'a.jpg' has split 'dev'",
        ),
        ("captions.csv", "image,caption,split\na.jpg,one,train\nb.jpg,one,\n", "'b.jpg' has no split"),
        ("captions.jsonl", '{"image": "a.jpg", "caption": "one"}\n{"image"\n', "line 2: malformed JSON"),
        ("captions.jsonl", "[1]\n", "line 1: not a JSON object"),
        ("captions.jsonl", '{"caption": "one"}\n', "line 1: no column image"),
        ("captions.jsonl", '{"image": 5, "caption": "one"}\n', "line 1: the image's name"),
        ("captions.jsonl", '{"image": "a.jpg", "caption": 5}\n', "line 1: the caption is neither"),
        (
            "captions.jsonl",
            '{"image": "a.jpg", "captions": ["one", null]}\n',
            "line 1: the caption is neither",
        ),
        ("captions.jsonl", '{"image": "a.jpg", "caption": "one", "split": 1}\n', "line 1: the split"),
    ],
)
def test_caption_folder_malformed(file, text, message, tmp_path):
    with pytest.raises(ValueError, match=f"{file}.*{message}"):
        CaptionFolder(write_folder(tmp_path, text, file)).read("all")


def test_captions_that_are_not_utf8(tmp_path):
    write_folder(tmp_path, "")
    (tmp_path / "captions.csv").write_bytes("image,caption\na.jpg,Bär\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"captions\.csv: not UTF-8"):
        CaptionFolder(tmp_path).read("all")


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_dev_fraction_is_checked(fraction):
    with pytest.raises(ValueError, match="dev_fraction"):
        CaptionFolder("anywhere", dev_fraction=fraction)


# ------------------------------------------------------------------------------------------ find_reader


def test_layouts_that_are_unknown(tmp_path):
    touch(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="layout") as caught:
        find_reader(tmp_path)
    assert all(name in str(caught.value) for name in ("Flickr8k", "COCO", "Karpathy", "captions.csv"))
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_reader(tmp_path / "nothing")


def test_a_new_reader_is_one_small_class(tmp_path):
    touch(tmp_path / "a.jpg")

    class Mine(Reader):
        @property
        def splits(self) -> tuple[str, ...]:
            return ("validation",)

        def items(self, split: str) -> list[CaptionedImage]:
            return [CaptionedImage("a", tmp_path / "a.jpg", ("one",))]

    assert captions_of(Mine().read("dev")) == {"a": ("one",)}
