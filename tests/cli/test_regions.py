"""`captioner regions`: photos, data sets and other people's features become files to train on."""

from __future__ import annotations

import pytest
import torch
import torchvision
import yaml
from torchvision.models import detection
from torchvision.ops import MultiScaleRoIAlign

from captioner.cli.main import main
from captioner.data.features.regions import RegionFile
from captioner.data.images import ImageTransform
from captioner.data.readers import SyntheticShapes
from captioner.models.encoders import RegionEncoder

DETECTOR = "fasterrcnn_mobilenet_v3_large_320_fpn"
SMALL = ["--size", "64", "--num-workers", "0", "--device", "cpu"]


class TinyBackbone(torch.nn.Sequential):
    """One map of features."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__(torch.nn.Conv2d(3, 8, 16, 16), torch.nn.BatchNorm2d(8))

    def forward(self, images):
        return {"0": super().forward(images)}


def tiny_detector(name, weights, weights_backbone, num_classes) -> detection.FasterRCNN:
    """A Faster R-CNN that is built in no time, with 16 features a region."""
    return detection.FasterRCNN(
        TinyBackbone(),
        rpn_anchor_generator=detection.rpn.AnchorGenerator(((8, 16, 32),), ((0.5, 1.0, 2.0),)),
        box_roi_pool=MultiScaleRoIAlign(["0"], 2, 2),
        box_head=detection.faster_rcnn.TwoMLPHead(8 * 4, 16),
        box_predictor=detection.faster_rcnn.FastRCNNPredictor(16, num_classes),
        rpn_post_nms_top_n_test=50,
    )


@pytest.fixture(scope="module", autouse=True)
def _tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.models, "get_model", tiny_detector)
        yield


@pytest.fixture(scope="module")
def weights(_tiny, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "detector.pth"
    torch.save(RegionEncoder(DETECTOR, "none").network.state_dict(), path)
    return str(path)


def of(weights):
    return ["--detector", DETECTOR, "--weights", weights, *SMALL]


def test_photos_of_a_folder(album, good_names, broken_names, weights, tmp_path, capsys):
    arguments = ["regions", str(album), str(album / "no.jpg"), "--output", str(tmp_path / "r"), *of(weights)]
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert err.count("captioner: ") == len(broken_names) + 1
    for name, reason in broken_names.items():
        assert f"{album / name}: {reason}" in err
    file = RegionFile(tmp_path / "r")
    assert set(file.places) == {name.rpartition("/")[2] for name in good_names}
    assert file.feature_dim == 16
    file.require_for(RegionEncoder(DETECTOR, weights), ImageTransform(64))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "r").glob("*.safetensors")}
    assert main(arguments) == 1  # again: nothing is left to do
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "r").glob("*.safetensors")} == before


def test_two_photos_of_one_name_in_two_calls(draw, weights, tmp_path, capsys):
    paths = [tmp_path / folder / "1.png" for folder in "ab"]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        draw(number).save(path)
    arguments = ["--output", str(tmp_path / "r"), *of(weights)]
    assert [main(["regions", str(path), *arguments]) for path in (paths[0], paths[0], paths[1])] == [0, 0, 1]
    assert f"captioner: {paths[1]}: is called '1.png', and the regions that" in capsys.readouterr().err


def test_another_detector_into_the_same_folder(album, weights, tmp_path, capsys):
    photo = str(album / "grey.png")
    assert main(["regions", photo, "--output", str(tmp_path / "r"), *of(weights)]) == 0
    assert main(["regions", photo, "--output", str(tmp_path / "r"), *of(weights), "--num-regions", "7"]) == 2
    assert "the encoder's num_regions: 36 there, 7 here" in capsys.readouterr().err


@pytest.fixture
def config(tmp_path, weights):
    """A training config whose model looks for regions by itself."""
    pictures = {"root": str(tmp_path / "pictures"), "num_train": 3, "num_dev": 2, "size": 32}
    content = {
        "data": {
            "reader": {"class_path": "captioner.data.readers.SyntheticShapes", "init_args": pictures},
            "transform": {"size": 64, "fit": "pad"},
            "vocabulary": {"class_path": "captioner.tokenizer.WordLevel", "init_args": {"min_count": 1}},
            "regions": str(tmp_path / "features"),
            "batch_size": 2,
            "num_workers": 0,
        },
        "model": {
            "encoder": {
                "class_path": "captioner.models.encoders.RegionEncoder",
                "init_args": {"name": DETECTOR, "weights": weights, "num_regions": 12},
            },
            "decoder": {
                "class_path": "captioner.models.ShowAttendTell",
                "init_args": {"embed_dim": 8, "hidden_dim": 8},
            },
        },
        "trainer": {"accelerator": "cpu", "fast_dev_run": 2},
        "run_dir": str(tmp_path / "run"),
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_a_config_says_all_and_is_trained_on_it(config, weights, tmp_path, capsys):
    assert main(["regions", "--data", str(config), "--num-workers", "0", "--device", "cpu"]) == 0
    file = RegionFile(tmp_path / "features")
    reader = SyntheticShapes(tmp_path / "pictures", num_train=3, num_dev=2, size=32)
    assert set(file.places) == {item.key for split in ("train", "dev") for item in reader.read(split)}
    file.require_for(RegionEncoder(DETECTOR, weights, num_regions=12), ImageTransform(64, "pad"))
    assert main(["train", "fit", "-c", str(config)]) == 0, capsys.readouterr().err
    assert main(["train", "fit", "-c", str(config), "--model.encoder.num_regions", "13"]) == 2
    assert "the encoder's num_regions: 12 there, 13 here" in capsys.readouterr().err


def test_any_features_go_with_an_encoder_that_stands_for_them(config, tmp_path, weights, capsys):
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    content["model"]["encoder"] = {
        "class_path": "captioner.models.encoders.PrecomputedRegions",
        "init_args": {"feature_dim": 16},
    }
    config.write_text(yaml.safe_dump(content), encoding="utf-8")
    detector = ["--detector", DETECTOR, "--weights", weights, "--num-workers", "0", "--device", "cpu"]
    assert main(["regions", "--data", str(config), "--split", "train", *detector]) == 0
    assert len(RegionFile(tmp_path / "features").places) == 3
    assert main(["regions", "--data", str(config), *detector]) == 0
    assert main(["train", "fit", "-c", str(config)]) == 0, capsys.readouterr().err
    assert main(["train", "fit", "-c", str(config), "--model.encoder.feature_dim", "2048"]) == 2
    assert "features of size 16, where the encoder says 2048" in capsys.readouterr().err


def test_features_of_others(tmp_path, capsys):
    (tmp_path / "a.tsv").write_text("17\t60\t40\t1\tAAAAAAAAAAAAAIA/AACAPw==\tAACAPwAAAEA=\n5\t6\n")
    assert main(["regions", "--from-tsv", str(tmp_path / "a.tsv"), "--output", str(tmp_path / "r")]) == 1
    assert f"captioner: {tmp_path}/a.tsv, line 2: 2 columns" in capsys.readouterr().err
    regions = RegionFile(tmp_path / "r").read("17")
    assert (regions.features.tolist(), regions.boxes.tolist(), regions.size) == ([[1, 2]], [[0, 0, 1, 1]], (60, 40))


@pytest.mark.parametrize(
    ("option", "number", "least"), [("--num-workers", -1, 0), ("--batch-size", 0, 1), ("--num-regions", 0, 1)]
)
def test_numbers_that_cannot_be(option, number, least, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["regions", "x.jpg", "--output", "r", option, str(number)])
    assert stop.value.code == 2
    assert f"argument {option}: {number} is not at least {least}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give photos, --data or --from-tsv, one of the three"),
        (["x.jpg", "--from-tsv", "a.tsv"], "one of the three"),
        (["--from-tsv", "a.tsv"], "--output DIR is missing"),
        (["--from-tsv", "/nowhere/a.tsv", "--output", "r"], "/nowhere/a.tsv: No such file"),
        (["{photo}"], "--output DIR is missing"),
        (["{photo}", "--split", "dev", "--output", "r"], "--split goes with --data"),
        (["{photo}", "--detector", "yolo", "--output", "r"], "no detector 'yolo'; there are"),
        (["--data", "{config}"], "not a training config"),
    ],
)
def test_wrong_use(arguments, message, album, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("data: {}\n")
    filled = [text.format(photo=album / "grey.png", config=tmp_path / "c.yaml") for text in arguments]
    assert main(["regions", *filled]) == 2
    assert message in capsys.readouterr().err
