"""The data and the encoder that a training config names."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from captioner.cli.arguments.config import data_and_encoder
from captioner.models import GridEncoder
from captioner.tasks.captioning import CaptionData

TINY = Path(__file__).parents[3] / "configs" / "tiny.yaml"


@pytest.mark.parametrize("has_class_path", [False, True])
def test_they_are_made_as_the_config_says(has_class_path, tmp_path):
    config = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    if has_class_path:
        path = "captioner.data.datamodule.CaptionData"  # as version 0.1.0 called it
        config["data"] = {"class_path": path, "init_args": config["data"]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    data, encoder = data_and_encoder(str(tmp_path / "config.yaml"))
    assert isinstance(data, CaptionData)
    assert (data.transform.size, data.batch_size, data.augmentation.flip) == (64, 8, 0.0)
    assert isinstance(encoder, GridEncoder)
    assert encoder.name == "timm/resnet10t"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("data: [", "not a YAML file"),
        ("- a", "not a training config"),
        ("data: {}", "not a training config: it has no data, or no model.encoder"),
        ("data: null\nmodel: {encoder: x}", "not a training config"),
        ("data: {}\nmodel: null", "not a training config"),
        ("{data: {class_path: TextData}, model: {encoder: captioner.models.GridEncoder}}", "reader"),
        ("{data: {batch: 3}, model: {encoder: captioner.models.GridEncoder}}", "'batch' is not accepted|batch"),
    ],
)
def test_what_is_no_training_config_is_named(content, message, tmp_path):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match=rf"config\.yaml: .*({message})") as caught:
        data_and_encoder(str(tmp_path / "config.yaml"))
    assert "\n" not in str(caught.value)
