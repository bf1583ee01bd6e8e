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


class Bases(dict[str, Path]):
    """Family → folder of its tiny base, built when it is first asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def __missing__(self, name: str) -> Path:
        self[name] = BUILDERS[name](self._root / name)
        return self[name]


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Family → folder of its tiny base."""
    return Bases(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="session")
def epsilon_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sd1 shape with the other objective."""
    return build_sd1(tmp_path_factory.mktemp("epsilon") / "base", prediction="epsilon")
