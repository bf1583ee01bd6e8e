"""One tiny base and one store for all tests of the run program."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from marsam.diffusion.weights.net import quieten
from tests.contract.families.bases import build_sd1
from tests.integration.run.store import Shelf, make


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    quieten()
    return build_sd1(tmp_path_factory.mktemp("base") / "sd1")


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory, base_folder: Path) -> Shelf:
    return asyncio.run(make(tmp_path_factory.mktemp("shelf") / "store", base_folder))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@contextlib.contextmanager
def _as_found() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        root.handlers[:], root.level = handlers, level
        for number, handler in signals.items():
            signal.signal(number, handler)


@pytest.fixture
def program() -> Iterator[Callable[[list[str]], int]]:
    """The run program's `main` in this process; what it changes of the process is put back."""
    from marsam_trainer.run.__main__ import main

    with _as_found():
        yield main
