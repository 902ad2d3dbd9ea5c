"""Items and the errors about them."""

from __future__ import annotations

import pickle
import warnings

import pytest

from captioner.types import ImageError


@pytest.fixture(autouse=True)
def warnings_are_errors():
    """Nothing that Pillow warns of may leak."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_image_error_survives_pickling():
    error = pickle.loads(pickle.dumps(ImageError("a b.jpg", "the file is empty")))
    assert isinstance(error, ValueError)
    assert (error.name, error.reason, str(error)) == (
        "a b.jpg",
        "the file is empty",
        "a b.jpg: the file is empty",
    )
