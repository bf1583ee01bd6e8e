"""A real S3 server that a test has for itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hayy.demo.seaweed import Seaweed, running


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seaweed]:
    """The server with the bucket `marsam`; the variables that lead to it are set for this process and its children."""
    with running(tmp_path / "seaweed") as server:
        server.make_bucket("marsam")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
