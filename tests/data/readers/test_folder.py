"""A folder with captions of one's own."""

from __future__ import annotations

import pytest
from reader_cases import write_folder

from captioner.data.readers import CaptionFolder, find_reader
from captioner.types import CaptionedImage


def captions_of(items: list[CaptionedImage]) -> dict[int | str, tuple[str, ...]]:
    return {item.image_id: item.captions for item in items}


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


def test_names_that_are_no_utf8_have_their_split(tmp_path):
    """Of a file system's bytes, say: JSON can hold them."""
    lines = ['{"image": "\\udcff.jpg", "caption": "one"}', '{"image": "b.jpg", "caption": "two"}']
    reader = CaptionFolder(write_folder(tmp_path, "\n".join(lines), "captions.jsonl"))
    assert {item.image_id for split in ("train", "dev") for item in reader.items(split)} == {"\udcff.jpg", "b.jpg"}


UNQUOTED = {
    "in the middle": 'b.jpg{0} 1{0} a sign that says "stop"',
    "at the start": 'b.jpg{0} 1{0} "stop" says a sign',
    "at both ends": 'b.jpg{0} 1{0} "stop" and "go"',
    "left open": 'b.jpg{0} 1{0} "stop , says a sign',
    "closed rows later": 'b.jpg{0} 1{0} "stop , says a sign\nb.jpg{0} 2{0} a sign says stop"',
    "doubled and open": 'b.jpg{0} 1{0} ""stop" says a sign',
    "alone": 'b.jpg{0} 1{0} "',
}


@pytest.mark.parametrize("delimiter", ["|", "\t"])
@pytest.mark.parametrize("case", UNQUOTED)
def test_a_table_without_quoting(case, delimiter, tmp_path):
    """As Flickr30k's results.csv: rows that open with a quote are rows, and the captions are as they are written."""
    rows = UNQUOTED[case].format(delimiter).split("\n")
    lines = [f"image_name{delimiter} comment_number{delimiter} comment", f"a.jpg{delimiter} 0{delimiter} one", *rows]
    lines += [f"a.jpg{delimiter} 1{delimiter} two"]
    reader = find_reader(write_folder(tmp_path, "\n".join(lines) + "\n", "captions.txt"))
    expected = tuple(row.split(delimiter)[2].strip() for row in rows)
    assert captions_of(reader.read("all")) == {"a.jpg": ("one", "two"), "b.jpg": expected}


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_a_quoted_caption_may_hold_line_breaks_and_the_separator(delimiter, tmp_path):
    caption = f'say ""two{delimiter}\nmore{delimiter}"" or three'
    text = f'image{delimiter}caption\na.jpg{delimiter}"{caption}"\nb.jpg{delimiter}four\n'
    reader = find_reader(write_folder(tmp_path, text, "captions.csv"))
    assert captions_of(reader.read("all")) == {"a.jpg": (caption.replace('""', '"'),), "b.jpg": ("four",)}


def test_a_quote_in_commas_swallows_no_rows(tmp_path):
    text = 'image,caption\na.jpg,one\na.jpg,"two\nb.jpg,three"\n'
    with pytest.raises(ValueError, match=r"captions\.csv, line 3: malformed: .*stands in double quotes itself"):
        find_reader(write_folder(tmp_path, text)).read("all")


ROWS_OF_ANY_NAME = {  # the rows, "," between their cells, and the files that are there
    "numbers": ('123,"a dog\n124,he said "\n125,a cat', ("123", "124", "125")),
    "numbers of no files": ('123,"a dog\n124,he said "\n125,a cat', ()),
    "letters": ('a,"a dog\nb,said "\nc,foo', ("a", "b", "c")),
    "letters in a folder": ('a,"a dog\nb,said "\nc,foo', ("photos/a", "photos/b", "photos/c")),
    "letters of other rows": ('a,"a dog\nb,said "\nc,foo\nb,bar\na,baz', ()),
    "one name": ('a,"a dog\na,said "\nc,foo', ()),
    "another suffix": ('p0.heic,"a dog\np1.heic,said "\np2.heic,foo', ("p0.heic", "p1.heic", "p2.heic")),
    "another suffix of no files": ('p.heic,"a dog\nq.heic,said "\nr.heic,foo', ()),
    "names with numbers": ('img_7,"a dog\nimg_12,said "\nimg_3,foo', ()),
    "several rows": ('x1,"a dog\nx2,two\n\nx3,three\nx4,said "\nx5,foo', ()),
}


def columns_turned(rows: str) -> str:
    return "\n".join(",".join(reversed(row.split(","))) for row in rows.split("\n"))


@pytest.mark.parametrize("case", ROWS_OF_ANY_NAME)
@pytest.mark.parametrize("header", ["image,caption", "caption,image"])
@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
def test_a_quote_swallows_no_rows_whatever_images_are_called(case, header, delimiter, tmp_path):
    rows, images = ROWS_OF_ANY_NAME[case]
    text = f"{header}\n{rows if header.startswith('image') else columns_turned(rows)}\n".replace(",", delimiter)
    reader = CaptionFolder(write_folder(tmp_path, text, "captions.txt", images), "captions.txt")
    if delimiter in ",;":
        with pytest.raises(ValueError, match=r"captions\.txt, line 2: malformed: a double quote is not closed before"):
            reader.items("all")
    else:
        expected: dict[str, tuple[str, ...]] = {}
        for name, caption in (row.split(",") for row in rows.split("\n") if row):
            expected[name] = (*expected.get(name, ()), caption.strip())
        assert captions_of(reader.items("all")) == expected


def test_more_separators_in_a_swallowed_row(tmp_path):
    text = 'image,caption\na,"a dog\nb,said, loudly "\nc,foo\n'
    with pytest.raises(ValueError, match="line 2: malformed: a double quote is not closed before"):
        CaptionFolder(write_folder(tmp_path, text, images=("a", "b", "c"))).items("all")


@pytest.mark.parametrize("delimiter", [",", ";", "|", "\t"])
@pytest.mark.parametrize("names", [("a.jpg", "b.jpg"), ("a", "b"), ("17", "4")])
@pytest.mark.parametrize(
    "caption",
    ["A dog.\nIt is brown", "A dog.\n\nIt is brown, red; or | white", 'A\n\t"dog"\n', "1. A\n2. B\n", 'A\nred | "'],
)
def test_a_caption_of_several_lines_is_one(delimiter, names, caption, tmp_path):
    quoted = '"' + caption.replace('"', '""') + '"'
    for header, rows in (
        (f"image{delimiter}caption", f"{names[0]}{delimiter}{quoted}\n{names[1]}{delimiter}four"),
        (f"caption{delimiter}image", f"{quoted}{delimiter}{names[0]}\nfour{delimiter}{names[1]}"),
    ):
        write_folder(tmp_path, f"{header}\n{rows}\n", "captions.txt", names)
        expected = {names[0]: (caption.strip(),), names[1]: ("four",)}
        assert captions_of(CaptionFolder(tmp_path, "captions.txt").items("all")) == expected


def test_the_first_image_may_be_missing(tmp_path):
    """The folder of the images is that of the others, and one is missing, not all."""
    names = [f"{number}.jpg" for number in range(5)]
    write_folder(tmp_path, numbered(5), images=tuple(f"photos/{name}" for name in names[1:]))
    with pytest.raises(FileNotFoundError, match=r"1 of 5 images are missing, the first: .*photos/0\.jpg$"):
        find_reader(tmp_path).read("all")
    for name in names[1:]:
        (tmp_path / "photos" / name).unlink()
    with pytest.raises(FileNotFoundError, match="5 of 5 images are missing"):
        find_reader(tmp_path).read("all")
    assert len(find_reader(tmp_path).read("all", require_images=False)) == 5


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
        ("captions.csv", "[" * 200_000, "line 1: a cell of more than 131,072 characters.*shorten it"),
        (
            "captions.csv",
            "image,caption\na.jpg," + "x" * 200_000,
            "line 2: a cell of more than 131,072 characters.*jsonl",
        ),
        (
            "captions.csv",
            'image;caption\na.jpg;"' + "x" * 200_000 + '"',
            "line 2: a cell of more than 131,072 characters",
        ),
        ("captions.csv", 'image,caption\na.jpg,"one\n' + "b.jpg,two\n" * 20_000, "line 2: malformed: .*double quotes"),
        (
            "captions.csv",
            "image,caption\na.jpg,one\nb.jpg,two, three\n",
            "line 3: 3 columns where the header has 2",
        ),
        ("captions.csv", "image,caption\na.jpg\n", "line 2: 1 columns where the header has 2; a cell is missing"),
        (
            "captions.txt",
            "image_name| comment_number| comment\na.jpg| 4   A dog runs .\n",
            r"line 2: 2 columns where the header has 3; a cell is missing, or the '\|' before it, in .*A dog runs",
        ),
        ("captions.csv", "image,caption,caption\na.jpg,one,two\n", "line 1: 2 columns are called 'caption'"),
        ("captions.csv", "image,Caption,caption \na.jpg,one,two\n", "line 1: 2 columns are called 'caption'"),
        ("captions.csv", "image,image,caption\na.jpg,b.jpg,two\n", "line 1: 2 columns are called 'image'"),
        ("captions.csv", "image,caption,split,split\na.jpg,b,dev,dev\n", "line 1: 2 columns are called 'split'"),
        ("captions.jsonl", '{"image": "a.jpg", "caption": "a", "Caption": "b"}\n', "2 columns are called 'caption'"),
        ("captions.jsonl", '{"image": "a.jpg", "caption": "a", "caption": "b"}\n', "the key 'caption' comes twice"),
        (
            "captions.jsonl",
            '{"image": "a.jpg", "captions": ["a"], "caption": "b"}\n',
            "line 1: 2 columns are called 'captions' and 'caption'",
        ),
        ("captions.csv", "image,Caption,captions\na.jpg,one,two\n", "2 columns are called 'caption' and 'captions'"),
        (
            "captions.jsonl",
            '{"image": "a.jpg", "caption": "a", "split": "dev", "Split": "train"}\n',
            "2 columns are called 'split'",
        ),
        ("captions.jsonl", '{"image": "a.jpg", "caption": "a", "split": "dev", "split ": ""}\n', "called 'split'"),
        ("captions.jsonl", '{"image": "a.jpg", "caption": NaN}\n', "line 1: malformed JSON: NaN"),
        ("captions.jsonl", '{"image": "a.jpg", "caption": "a \\ud83d"}\n', "line 1: the caption .* holds half a char"),
        ("captions.jsonl", '{"image": "a\\u0000.jpg", "caption": "a"}\n', "line 1: the image's name"),
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


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_captions_that_are_not_utf8(encoding, tmp_path):
    write_folder(tmp_path, "")
    (tmp_path / "captions.csv").write_bytes("image,caption\na.jpg,Bär\n".encode(encoding))
    with pytest.raises(ValueError, match=r"captions\.csv: not UTF-8"):
        CaptionFolder(tmp_path).read("all")


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_dev_fraction_is_checked(fraction):
    with pytest.raises(ValueError, match="dev_fraction"):
        CaptionFolder("anywhere", dev_fraction=fraction)
