"""A real S3 server for the suites, one for all of them."""

from collections.abc import Iterator

import pytest
from hayy.demo.seaweed import Seaweed, running

from tests.contract.store.stores import BUCKET


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with running(tmp_path_factory.mktemp("seaweed")) as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture
def seaweed(_server: Seaweed, monkeypatch: pytest.MonkeyPatch) -> Seaweed:
    """The server, with the variables that lead to it set for this process and its children."""
    for name, value in _server.environment.items():
        monkeypatch.setenv(name, value)
    return _server
