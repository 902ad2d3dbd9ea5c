"""The data and the encoder that a training config names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from captioner.models import Encoder
    from captioner.tasks.captioning import CaptionData


def data_and_encoder(path: str) -> tuple[CaptionData, Encoder]:
    """The data and the encoder of a training config.

    Raises:
        ValueError: it is none, or describes them wrongly.
    """
    from jsonargparse import ArgumentParser

    from captioner.configs import data_arguments, instantiate, read_config
    from captioner.models import Encoder
    from captioner.tasks.captioning import CaptionData

    config = read_config(path)
    try:
        sections = {"data": data_arguments(config), "encoder": config["model"]["encoder"]}
    except (KeyError, TypeError):
        raise ValueError(f"{path}: not a training config: it has no data, or no model.encoder") from None
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(CaptionData, "data")
    parser.add_subclass_arguments(Encoder, "encoder")
    parts = instantiate(parser, sections, {"data": CaptionData, "encoder": Encoder}, path)
    return parts.data, parts.encoder
