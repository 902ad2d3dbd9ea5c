"""Samples in TensorBoard."""

from __future__ import annotations

import pytest
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from task_cases import make_task, make_trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from captioner.tasks.captioning import SampleCaptions


def test_sample_captions_go_to_tensorboard(make_data, tmp_path):
    data = make_data()
    logger = TensorBoardLogger(tmp_path, name="", version="")
    make_trainer(tmp_path, logger=logger, callbacks=[SampleCaptions(2)]).fit(make_task(data), data)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["images"] == ["sample 0", "sample 1"]
    (image,) = events.Images("sample 0")
    assert image.width > 100
    assert {"train/loss", "val/cider", "val/bleu4", "val/nll"} <= set(events.Tags()["scalars"])


def test_pictures_that_nobody_would_see_are_spoken_of(make_data, tmp_path):
    data = make_data()
    loggers = [CSVLogger(tmp_path)]
    with pytest.warns(UserWarning, match="shown in TensorBoard alone, and the logger is CSVLogger: there will be none"):
        make_trainer(tmp_path, logger=loggers, callbacks=[SampleCaptions(2)]).fit(make_task(data), data)
    with pytest.warns(UserWarning, match="the logger is none"):
        make_trainer(tmp_path, callbacks=[SampleCaptions(2)]).fit(make_task(data), data)


def test_tensorboard_may_be_the_second_logger(make_data, tmp_path):
    data = make_data()
    loggers = [CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "board", name="", version="")]
    make_trainer(tmp_path, logger=loggers, callbacks=[SampleCaptions(1)]).fit(make_task(data), data)
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert events.Tags()["images"] == ["sample 0"]
