"""A service that starts over a full bucket asks for names of jobs at most, and opens none of its objects."""

import asyncio
import json
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hayy.demo.seaweed import Seaweed

from marsam.core.clock import SystemClock
from marsam.core.ids import new_ulid
from marsam.jobs.ended import mark_ended
from marsam.jobs.states import State, Transition
from marsam.store import keys
from marsam.store.open import open_store

URL = "s3://marsam/home"
RUNS = 300


@contextmanager
def overheard(endpoint: str) -> Iterator[tuple[str, list[str]]]:
    """(the address of a proxy in front of `endpoint`, the request lines that pass it)."""
    target = endpoint.removeprefix("http://").split(":")
    lines: list[str] = []

    def carry(near: socket.socket) -> None:
        with near, socket.create_connection((target[0], int(target[1]))) as far:

            def back() -> None:
                while data := far.recv(1 << 16):
                    near.sendall(data)

            threading.Thread(target=back, daemon=True).start()
            while data := near.recv(1 << 16):
                first = data.split(b"\r\n", 1)[0].decode("latin-1")
                if first.endswith("HTTP/1.1"):
                    lines.append(first)
                far.sendall(data)

    def serve() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=carry, args=(near,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", lines
        listener.shutdown(socket.SHUT_RDWR)


async def asked_at_start(service: str, server: Seaweed, cache: Path) -> list[str]:
    """The request lines of a service until it is ready and has had its first look for work."""
    with overheard(server.endpoint) as (address, lines):
        env = {**os.environ, "MARSAM_S3_ENDPOINT": address, "MARSAM_STORE": URL, "MARSAM_CACHE": str(cache)}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", f"marsam_{service}", "--until-stdin-closes", env=env,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            ready = await asyncio.wait_for(process.stdout.readline(), 120)
            assert json.loads(ready)["event"] == "ready"
            await asyncio.sleep(1)
            return list(lines)
        finally:
            process.terminate()
            await asyncio.wait_for(process.wait(), 60)


def listed(lines: list[str]) -> set[str]:
    """The folders that were listed, without the random name of the probe's."""
    found = set()
    for line in lines:
        asked = parse_qs(urlsplit(line.split(" ")[1]).query)
        if "list-type" in asked:
            folder = asked.get("prefix", [""])[0].removeprefix("home/")
            found.add("probe/" if folder.startswith("probe/") else folder)
    return found


def read(lines: list[str]) -> list[str]:
    """The objects that were read or looked at, but those of the probe."""
    return [
        line
        for line in lines
        if line.startswith(("GET", "HEAD")) and "list-type=" not in line and "/probe/" not in line
    ]


@pytest.mark.slow
@pytest.mark.parametrize("service", ["trainer", "dataset"])
async def test_a_start_does_not_read_the_bucket(service: str, server: Seaweed, tmp_path: Path) -> None:
    kind: keys.JobKind = "runs" if service == "trainer" else "imports"
    blobs, clock = open_store(URL), SystemClock()

    async def one(n: int) -> None:
        job_id, state = new_ulid(clock), State.FAILED
        last = Transition(seq=1, state=state, attempt=0, writer_id=new_ulid(clock), at=clock.now(), reason="TEST")
        await blobs.put(keys.job_spec("p", kind, job_id), b"{}")
        await blobs.put(f"{keys.job_log('p', kind, job_id)}/{keys.number(1)}", b"{}")
        await blobs.put(keys.blob("p", f"sha256:{n:064x}"), b"bytes")
        await mark_ended(blobs, "p", kind, job_id, last)

    await one(0)
    with_one = await asked_at_start(service, server, tmp_path / "one")
    for at in range(1, RUNS, 25):
        await asyncio.gather(*(one(n) for n in range(at, at + 25)))
    with_many = await asked_at_start(service, server, tmp_path / "many")

    names = {"probe/", "p/", f"p/p/open/{kind}/", f"p/p/{kind}/", f"p/p/ended/{kind}/"}
    for lines in (with_one, with_many):
        assert "probe/" in listed(lines)
        assert {re.sub(r"/[0-9-]{10}/$", "/", folder) for folder in listed(lines)} <= names
        assert read(lines) == []
    assert len(with_many) < len(with_one) + 20
