"""Processes that race for the entries of one log, and what must come of it."""

import json
import subprocess
import sys

from marsam.store.numbered import NumberedLog
from marsam.store.open import open_store
from tests.contract.store import racer

RACERS = 8


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
        out, _ = self.process.communicate(timeout=1500)
        assert self.process.returncode == 0
        return list(json.loads(out))


async def race_for_a_log(url: str, *, entries: int) -> None:
    """Eight processes win `entries` entries each of one log, others overwrite and read: nothing is lost or torn."""
    reader = Racer("read", url, "reader", 0)
    racers = [Racer("log", url, f"log{n}", entries) for n in range(RACERS)]
    racers += [Racer("put", url, f"put{n}", entries) for n in range(2)]
    for one in racers:
        one.shot()
    won = [one.result() for one in racers]
    reader.shot()
    torn, reads = reader.result()

    assert torn == 0
    assert reads > entries
    claimed = sorted(seq for some in won for seq in some)
    assert claimed == list(range(1, RACERS * entries + 1))
    found = await NumberedLog(open_store(url), "race/log").read_all()
    assert len(found) == RACERS * entries
    assert all(racer.whole(entry) for entry in found)
    for n in range(RACERS):
        for i, seq in enumerate(won[n]):
            assert json.loads(found[seq - 1])["body"].startswith(f"log{n} {i} ")
