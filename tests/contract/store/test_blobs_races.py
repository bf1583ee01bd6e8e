"""Processes that race: nothing is lost, nothing is torn, nobody wins twice."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from marsam.store.blobs import names
from marsam.store.numbered import NumberedLog
from marsam.store.open import open_store
from tests.contract.store import racer
from tests.contract.store.stores import ALL_STORES

RACERS = 8
ENTRIES = 20


class Racer:
    """A process that waits for the starting shot."""

    def __init__(self, kind: str, url: str, name: str, count: int) -> None:
        command = [sys.executable, racer.__file__, kind, url, name, str(count)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def shot(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def result(self) -> list[int]:
        out, _ = self.process.communicate(timeout=240)
        assert self.process.returncode == 0
        return list(json.loads(out))


@pytest.fixture(params=sorted(ALL_STORES))
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        request.getfixturevalue("seaweed")
    return ALL_STORES[request.param](tmp_path)


@pytest.mark.slow
async def test_racing_processes_lose_and_tear_nothing(url: str) -> None:
    reader = Racer("read", url, "reader", 0)
    racers = [Racer("log", url, f"log{n}", ENTRIES) for n in range(RACERS)]
    racers += [Racer("put", url, f"put{n}", ENTRIES) for n in range(2)]
    for one in racers:
        one.shot()
    won = [one.result() for one in racers]
    reader.shot()
    torn, reads = reader.result()

    assert torn == 0
    assert reads > ENTRIES
    claimed = sorted(seq for some in won for seq in some)
    assert claimed == list(range(1, RACERS * ENTRIES + 1))
    entries = await NumberedLog(open_store(url), "race/log").read_all()
    assert len(entries) == RACERS * ENTRIES
    assert all(racer.whole(entry) for entry in entries)
    for n in range(RACERS):
        for i, seq in enumerate(won[n]):
            assert json.loads(entries[seq - 1])["body"].startswith(f"log{n} {i} ")


@pytest.mark.slow
async def test_each_key_has_one_winner_who_knows_it(url: str) -> None:
    racers = [Racer("once", url, f"r{n}", 50) for n in range(RACERS)]
    for one in racers:
        one.shot()
    won = {f"r{n}": one.result() for n, one in enumerate(racers)}
    assert sorted(n for some in won.values() for n in some) == list(range(50))
    blobs = open_store(url)
    for name, some in won.items():
        for n in some:
            assert json.loads(await blobs.get(f"race/once/{n}"))["body"].startswith(f"{name} {n} ")
    assert len(await names(blobs, "race/once", folders=False)) == 50
