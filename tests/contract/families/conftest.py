"""Tiny bases, built once per test session."""

from pathlib import Path

import pytest
import torch

from marsam.diffusion.weights.net import quieten
from tests.contract.families.bases import BUILDERS, build_sd1


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    quieten()
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family → folder of its tiny base."""
    root = tmp_path_factory.mktemp("bases")
    return {name: build(root / name) for name, build in BUILDERS.items()}


@pytest.fixture(scope="session")
def epsilon_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sd1 shape with the other objective."""
    return build_sd1(tmp_path_factory.mktemp("epsilon") / "base", prediction="epsilon")
