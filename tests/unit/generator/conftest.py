from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from marsam.diffusion import registry
from marsam.diffusion.adapter.net import Adapter, read
from marsam.diffusion.spec import Components
from tests.unit.generator.tiny import write_adapter, write_base


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def parts(base_folder: Path) -> Components:
    """The tiny base, loaded afresh: tests may hang adapters on it."""
    return registry.family("sd1").load(base_folder)


@pytest.fixture(scope="session")
def adapter_folders(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three adapters of different ranks; `narrow` targets attention only."""
    root = tmp_path_factory.mktemp("adapters")
    write_adapter(root / "a", base_folder, seed=1, rank=4)
    write_adapter(root / "b", base_folder, seed=2, rank=8)
    write_adapter(root / "narrow", base_folder, seed=3, rank=2, targets=("to_q", "to_v"))
    return root


@pytest.fixture(scope="session")
def adapters(adapter_folders: Path) -> dict[str, Adapter]:
    """What `adapter_folders` holds, by name."""
    return {folder.name: read(folder) for folder in sorted(adapter_folders.iterdir())}
