"""A small data set of every layout."""

from __future__ import annotations

import json
from pathlib import Path


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
