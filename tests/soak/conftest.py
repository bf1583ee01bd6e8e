"""The stores that soaks run over."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hayy.demo.seaweed import Seaweed, running


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seaweed]:
    """An S3 server with the bucket `marsam`; this process and its children find it by their variables."""
    with running(tmp_path / "seaweed") as server:
        server.make_bucket("marsam")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store, of each kind."""
    if request.param == "folder":
        return (tmp_path / "store").as_uri()
    request.getfixturevalue("server")
    return "s3://marsam/soak"
