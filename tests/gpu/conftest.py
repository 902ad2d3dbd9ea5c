"""What only a GPU can show: `pytest tests/gpu -n 0`. Without one, `--rehearse` runs what goes on a CPU as well."""

from __future__ import annotations

import os

import pytest
import torch
from task_fixtures import make_data, pictures  # noqa: F401 (fixtures)

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which deterministic products need, before the first


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/gpu/" in item.path.as_posix():
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device(request) -> torch.device:
    """A GPU; in a rehearsal the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if request.config.getoption("--rehearse"):
        return torch.device("cpu")
    pytest.skip("needs a GPU")


@pytest.fixture
def cuda(device) -> torch.device:
    """A GPU, in a rehearsal too."""
    if device.type != "cuda":
        pytest.skip("needs a GPU")
    return device


@pytest.fixture(autouse=True)
def _exact():
    """Convolutions of float32 are of float32, not of TF32, as products are anyway."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(autouse=True)
def _compiled_anew(request):
    """The compiler gives up on a function that it has compiled for many models."""
    yield
    if "compiled" in request.node.name:
        torch._dynamo.reset()


@pytest.fixture
def no_waiting(device):
    """Has whatever makes the host wait for the GPU raise an error."""

    class Strictly:
        def __enter__(self) -> None:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
                torch.cuda.set_sync_debug_mode("error")

        def __exit__(self, *exception: object) -> None:
            if device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")

    return Strictly()
