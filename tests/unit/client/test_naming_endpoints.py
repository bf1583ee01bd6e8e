"""Short names, and where the services are."""

import json
from pathlib import Path

import pytest

from marsam.client import Endpoints, find, qualify, short
from marsam.core.errors import Corrupt, Invalid, Unavailable
from marsam.core.ids import new_ulid

ULID = new_ulid()


@pytest.mark.parametrize(
    ("kind", "name", "full"),
    [
        ("dataset", "hayy", "projects/p/datasets/hayy"),
        ("version", "hayy/v1", "projects/p/datasets/hayy/versions/v1"),
        ("model", "hayy-base", "projects/p/models/hayy-base"),
        ("model", "@prod", "projects/p/aliases/prod"),
        ("run", ULID, f"projects/p/runs/{ULID}"),
        ("suite_version", "hayy/v2", "projects/p/suites/hayy/versions/v2"),
    ],
)
def test_short_names_there_and_back(kind: str, name: str, full: str) -> None:
    assert qualify(kind, name, project="p") == full
    assert qualify(kind, full, project="other") == full
    assert short(full) == name


@pytest.mark.parametrize(
    ("kind", "name"),
    [("dataset", "a/b"), ("version", "hayy"), ("run", "latest"), ("model", "UPPER"), ("model", "projects/p/runs/x")],
)
def test_names_that_are_none(kind: str, name: str) -> None:
    with pytest.raises(Invalid) as caught:
        qualify(kind, name, project="p", field="spec.x")
    assert "spec.x" in caught.value.message or caught.value.field


def write(folder: Path, port: int) -> Path:
    (folder / ".marsam").mkdir(parents=True)
    path = folder / ".marsam" / "endpoints.json"
    entry = {"http": "http://x", "pid": 1}
    path.write_text(
        json.dumps({s: {"grpc": f"127.0.0.1:{port}", **entry} for s in ("dataset", "trainer", "generator")})
    )
    return path


def test_endpoints_are_found_here_above_and_by_name(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    named = write(tmp_path / "elsewhere", 2)
    with pytest.raises(Unavailable) as caught:
        find(env={}, folder=below)
    assert caught.value.reason == "NOT_RUNNING"
    write(tmp_path, 1)
    one = "127.0.0.1:1"
    assert find(env={}, folder=below) == Endpoints(dataset=one, trainer=one, generator=one)
    assert find(env={"MARSAM_ENDPOINTS": str(named)}, folder=below).trainer == "127.0.0.1:2"
    with pytest.raises(Unavailable):
        find(env={"MARSAM_ENDPOINTS": str(tmp_path / "nope.json")}, folder=below)
    named.write_text("{}")
    with pytest.raises(Corrupt):
        find(env={"MARSAM_ENDPOINTS": str(named)}, folder=below)
