"""What needs a CUDA device: `make test-gpu`. Without one these tests fail, they do not pass."""

import os
from pathlib import Path

import pytest
import torch

from marsam.diffusion.weights.net import quieten
from tests.contract.families.conftest import Bases


@pytest.fixture(scope="session")
def device() -> str:
    """The device under test; `MARSAM_TEST_DEVICE=cpu:0` tries the tests themselves where there is no GPU."""
    quieten()
    # Single precision is meant where it is asked for.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return os.environ.get("MARSAM_TEST_DEVICE", "cuda:0")


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family → folder of its tiny base."""
    return Bases(tmp_path_factory.mktemp("bases"))
