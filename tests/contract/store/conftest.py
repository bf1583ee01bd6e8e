"""A real S3 server for the suites, one for all of them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture
def rclone(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables of a server that speaks S3 and ignores conditions."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "rclone" / BUCKET).mkdir(parents=True)
    program = str(Path(sys.executable).with_name("rclone"))
    command = [program, "serve", "s3", str(tmp_path / "rclone"), "--addr", f"127.0.0.1:{port}"]
    command += ["--auth-key", "key,secret", "--config", os.devnull]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None
            time.sleep(0.05)
        endpoint = f"http://127.0.0.1:{port}"
        yield {"MARSAM_S3_ENDPOINT": endpoint, "MARSAM_S3_ACCESS_KEY": "key", "MARSAM_S3_SECRET_KEY": "secret"}
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
