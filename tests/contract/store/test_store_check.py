"""A store that is not fit: `marsam store check` names every property, and no service starts over it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from hayy.demo.seaweed import Seaweed

from marsam.store.blobs import walk
from marsam.store.open import open_store
from tests.contract.store.stores import ALL_STORES

PROPERTIES = ["create-only", "create-race", "list-after-write", "overwrite", "range", "large", "delete", "links"]


def check(url: str, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "marsam.cli", "store", "check", url, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **env}, check=False)


async def test_every_property_is_named(seaweed: Seaweed, tmp_path: Path) -> None:
    for name in ("folder", "s3"):
        url = ALL_STORES[name](tmp_path)
        done = check(url, "--json")
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said["fit"] is True
        assert [finding["name"] for finding in said["findings"]] == PROPERTIES
        assert all(finding["holds"] for finding in said["findings"])
        assert [key async for key in walk(open_store(url), "")] == []


def test_a_store_that_is_not_fit(rclone: dict[str, str]) -> None:
    done = check("s3://marsam-tests/x", **rclone)
    assert done.returncode == 6
    assert "FAIL  create-only" in done.stdout
    assert "STORE_CREATE_ONLY" in done.stdout
    assert "create-race" not in done.stdout


def test_no_service_starts_over_it(rclone: dict[str, str], tmp_path: Path) -> None:
    own = {"MARSAM_STORE": "s3://marsam-tests/x", "MARSAM_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "marsam_dataset"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, **rclone, **own}, check=False
    )
    assert done.returncode == 69, done.stderr
    assert done.stdout == ""
    refused = [line for line in map(json.loads, done.stderr.splitlines()) if line.get("event") == "service.refused"]
    assert [line["reason"] for line in refused] == ["STORE_CREATE_ONLY"]
    assert "If-None-Match" in refused[0]["remedy"]


def test_wrong_keys(seaweed: Seaweed, tmp_path: Path) -> None:
    done = check(ALL_STORES["s3"](tmp_path), MARSAM_S3_SECRET_KEY="another-secret")
    assert done.returncode == 6
    assert "STORE_CREDENTIALS" in done.stdout
    assert "another-secret" not in done.stdout + done.stderr
