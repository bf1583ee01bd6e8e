"""Eight services race transitions over shared jobs and their own, one or another killed now and then: nothing is lost,
nobody wins twice, nothing is torn."""

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from marsam.core.clock import SystemClock
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.store import keys
from marsam.store.blobs import names
from marsam.store.keys import number
from marsam.store.open import open_store
from tests.contract.store.racing import race_for_a_log
from tests.soak import contender
from tests.soak.span import LIMIT_S, Span, drawn

pytestmark = [pytest.mark.soak, pytest.mark.timeout(LIMIT_S)]

CONTENDERS = 8
KILL_EVERY_S = (5.0, 25.0)


class Arena:
    """The contenders over one store. Their claims stay when they are gone."""

    def __init__(self, url: str, folder: Path, chance: random.Random) -> None:
        self.url = url
        self.killed: list[str] = []
        self._claims = folder / "claims"
        self._claims.mkdir()
        self._chance = chance
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._started = 0

    def start(self) -> None:
        """One more."""
        self._started += 1
        name = f"c{self._started}"
        words = [self.url, name, str(self._chance.randrange(1 << 30)), str(self._claims / name)]
        self._running[name] = subprocess.Popen([sys.executable, contender.__file__, *words], stdin=subprocess.PIPE)

    def kill_one(self) -> None:
        """One is killed, another takes its place."""
        name = self._chance.choice(sorted(self._running))
        process = self._running.pop(name)
        process.kill()
        assert process.wait(30) == -signal.SIGKILL, f"{name} had ended by itself"
        assert process.stdin is not None
        process.stdin.close()
        self.killed.append(name)
        self.start()

    def stop(self) -> None:
        """All come to their end in good order."""
        for process in self._running.values():
            assert process.stdin is not None
            process.stdin.close()
        codes = {name: process.wait(60) for name, process in self._running.items()}
        assert set(codes.values()) == {0}, codes

    def end(self) -> None:
        """Whatever still runs is killed."""
        for process in self._running.values():
            process.kill()
            process.wait(30)

    def claims(self) -> list[dict[str, Any]]:
        """Every line of every contender; the last one of a killed one may be cut off, and claims nothing then."""
        lines = [line for path in self._claims.iterdir() for line in path.read_text().splitlines(keepends=True)]
        return [json.loads(line) for line in lines if line.endswith("\n")]


async def test_eight_services_race_and_every_move_is_somebody_s(url: str, tmp_path: Path) -> None:
    chance = drawn()
    arena = Arena(url, tmp_path, chance)
    span = Span()
    try:
        for _ in range(CONTENDERS):
            arena.start()
        while not span.over:
            await asyncio.sleep(chance.uniform(*KILL_EVERY_S))
            arena.kill_one()
        arena.stop()
    finally:
        arena.end()
    jobs = JobStore(open_store(url), "p", "runs", SystemClock())
    requests: dict[str, set[str]] = {}
    won: dict[tuple[str, int], str] = {}
    for claim in arena.claims():
        if "request" in claim:
            requests.setdefault(claim["request"], set()).add(claim["job"])
            continue
        place = claim["job"], claim["seq"]
        assert place not in won, f"two contenders won entry {place}"
        won[place] = claim["writer"]
    assert all(len(ids) == 1 for ids in requests.values()), "one request led to two jobs"
    alive = set(await jobs.live())  # as the next service does, which completes what a killed one had only half made
    unclaimed: Counter[str] = Counter()
    states: Counter[State] = Counter()
    for job_id in await jobs.ids():
        history = await jobs.history(job_id)
        listed = await names(jobs.blobs, keys.job_log("p", "runs", job_id), folders=False)
        assert listed == [number(seq) for seq in range(1, len(history) + 1)]
        assert (history[0].state, history[0].reason) == (State.PENDING, "CREATED")
        for before, entry in pairwise(history):
            assert contender.may_follow(before, entry.state)
            assert entry.message == contender.FILLER
            writer = won.pop((job_id, entry.seq), None)
            assert writer in (entry.writer_id, None)
            if writer is None:
                unclaimed[entry.owner] += 1
        states[history[-1].state] += 1
        assert history[-1].state.terminal == (job_id not in alive)
    assert won == {}, "a move that its contender was told of is not there"
    assert set(unclaimed) <= set(arena.killed) and set(unclaimed.values()) <= {1}, unclaimed
    # A mark without a job is what a contender leaves that is killed before it wrote what the job is.
    half_made = set(await jobs.open_ids()) - alive
    assert half_made.isdisjoint(await jobs.ids()) and len(half_made) <= len(arena.killed)
    assert states[State.SUCCEEDED] > 0
    print(f"{len(requests)} jobs, {dict(states)}, {len(arena.killed)} contenders killed", flush=True)


async def test_eight_processes_write_two_hundred_entries_each_of_one_log(url: str) -> None:
    await race_for_a_log(url, entries=200)
