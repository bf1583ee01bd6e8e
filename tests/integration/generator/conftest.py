from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration.generator.support import Served, serving, tiny_models


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with tiny_models(tmp_path_factory.mktemp("models")) as url:
        yield url


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
async def served(store: str, cache: Path) -> AsyncIterator[Served]:
    async with serving(store, cache) as generator:
        yield generator
