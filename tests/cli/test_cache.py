"""`captioner cache`: a data set's features are stored once, and read in place of the photos."""

from __future__ import annotations

import shutil

import pytest
import yaml

from captioner.cli.main import main


@pytest.fixture
def data(draw, tmp_path):
    """A folder of photos with captions."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = ["image,caption,split"]
    for number in range(4):
        draw(number).save(folder / f"{number}.png")
        rows.append(f"{number}.png,two small boys,{'dev' if number == 3 else 'train'}")
    (folder / "captions.csv").write_text("\n".join(rows))
    return folder


def captions(capsys, model_file, *arguments) -> list[str]:
    assert main(["caption", "--model", str(model_file), "--device", "cpu", *map(str, arguments)]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_folder_is_stored_for_a_models_encoder(data, model_file, tmp_path, capsys):
    cache = tmp_path / "cache"
    arguments = ["cache", "--data", str(data), "--model", str(model_file), "--cache", str(cache), "--num-workers", "0"]
    assert main([*arguments, "--split", "train"]) == 0
    assert "3 images to encode" in capsys.readouterr().out
    assert main([*arguments, "--device", "cpu"]) == 0  # the other split; what is there is not encoded again
    assert "1 images to encode" in capsys.readouterr().out
    photos = sorted(data.glob("*.png"))
    seen = captions(capsys, model_file, *photos)
    shutil.copytree(data, tmp_path / "elsewhere")  # the bytes count, not the place
    stored = captions(capsys, model_file, *sorted((tmp_path / "elsewhere").glob("*.png")), "--cache", cache)
    assert [line.rpartition(": ")[2] for line in stored] == [line.rpartition(": ")[2] for line in seen]


def test_a_config_says_what_is_stored_where(data, tmp_path, capsys):
    reader = {"class_path": "captioner.data.readers.CaptionFolder", "init_args": {"root": str(data)}}
    encoder = {"name": "timm/test_efficientnet", "weights": "none", "output_stride": 16}
    config = {
        "data": {
            "reader": reader,
            "transform": {"size": 64},
            "augmentation": {"flip": 0.5},
            "cache_dir": str(tmp_path / "stored"),
            "cache_views": 2,
        },
        "model": {"encoder": {"class_path": "captioner.models.GridEncoder", "init_args": encoder}},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    arguments = ["cache", "--data", str(tmp_path / "config.yaml"), "--num-workers", "0", "--device", "cpu"]
    assert main(arguments) == 0
    assert "3 images to encode, 2 x 4x4x256" in capsys.readouterr().out  # augmented views of what is trained on
    assert {path.name for path in (tmp_path / "stored").iterdir()} >= {"cache.json", "index.jsonl", "features.f16"}
    assert main([*arguments, "--model", "m.safetensors"]) == 2
    assert "--model goes with a folder" in capsys.readouterr().err


def test_broken_photos_are_named_and_the_rest_is_stored(data, model_file, tmp_path, capsys):
    (data / "1.png").write_bytes(b"broken")
    arguments = ["--model", str(model_file), "--cache", str(tmp_path / "cache"), "--num-workers", "0"]
    assert main(["cache", "--data", str(data), *arguments]) == 1
    assert f"captioner: {data / '1.png'}: not an image" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "number", "message"),
    [
        ("--num-workers", "-1", "-1 is not at least 0"),
        ("--batch-size", "0", "0 is not at least 1"),
        ("--batch-size", "-4", "-4 is not at least 1"),
        ("--batch-size", "10000000000", "10000000000 is more than 1,000,000,000"),
    ],
)
def test_numbers_that_cannot_be(option, number, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["cache", "--data", "anything", "--cache", "c", option, number])
    assert stop.value.code == 2
    assert f"argument {option}: {message}" in capsys.readouterr().err


def test_two_photos_of_one_name_are_both_stored(data, model_file, draw, tmp_path, capsys):
    """The bytes count, not the name."""
    other = tmp_path / "other"
    shutil.copytree(data, other)
    draw(9).save(other / "1.png")
    arguments = [
        "--model",
        str(model_file),
        "--cache",
        str(tmp_path / "cache"),
        "--num-workers",
        "0",
        "--device",
        "cpu",
    ]
    assert main(["cache", "--data", str(data), *arguments]) == 0
    capsys.readouterr()
    assert main(["cache", "--data", str(other), *arguments]) == 0
    assert "1 images to encode" in capsys.readouterr().out


def test_a_place_for_the_cache_is_needed(data, model_file, capsys):
    assert main(["cache", "--data", str(data), "--model", str(model_file)]) == 2
    assert "--cache DIR is missing" in capsys.readouterr().err
