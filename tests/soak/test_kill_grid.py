"""Runs killed at random steps, again and again, end in the bits of the run that nobody disturbed."""

import asyncio
import itertools
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from tests.contract.families.bases import build_sd1
from tests.integration.run.endings import came_past, ended, last_state, tensors
from tests.integration.run.store import Shelf, make
from tests.soak.span import LIMIT_S, Span, drawn

pytestmark = [pytest.mark.soak, pytest.mark.timeout(LIMIT_S)]

METHODS = ("lora", "qlora", "full")
STEPS = 60
ORDER: dict[str, Any] = {"steps": STEPS, "checkpoint_every": 3, "ema_decay": 0.9, "caption_dropout": 0.2}
MOST_KILLS = 3
KILLS = 10
EARLY = 0.25
"""Share of the kills that come by the clock, most of them before the first step: while it loads and encodes."""
PAUSE_S = 0.15
"""A kill by step comes up to this long after a checkpoint: within the steps and the checkpoint that follow."""


def test_killed_at_any_step_a_run_ends_in_the_bits_of_the_calm_one(tmp_path: Path) -> None:
    chance = drawn()
    cache = tmp_path / "cache"
    shelf = asyncio.run(make(tmp_path / "store", build_sd1(tmp_path / "base")))
    calm: dict[str, str] = {}
    life_s = 0.0
    for method in METHODS:
        job_id = asyncio.run(shelf.order(method=method, **ORDER))
        began = time.monotonic()
        assert ended(shelf.start(job_id, 1, cache)) == 0
        life_s = max(life_s, time.monotonic() - began)
        calm[method] = asyncio.run(weights(shelf, job_id))
    told: Counter[str] = Counter()
    span = Span()
    for turn, method in enumerate(itertools.cycle(METHODS)):
        if span.over and turn >= len(METHODS):
            break
        job_id = asyncio.run(shelf.order(method=method, **ORDER))
        where = harried(shelf, job_id, cache, chance, life_s)
        assert asyncio.run(weights(shelf, job_id)) == calm[method], f"{method}, killed {where}"
        told[method] += 1
        told["kills"] += len(where)
        print(f"{span.gone_s:7.1f} s  {method}: {', '.join(where) or 'ended before it could be killed'}", flush=True)
        shutil.rmtree(shelf.attempt_folder(job_id, 1).parent)
    print(dict(told), flush=True)
    assert told["kills"] > 0
    assert not any((cache / "runs").iterdir()), "a run that ended leaves nothing in the cache"


@pytest.mark.parametrize("optimiser", ["adamw", "adamw_unfused", "adamw_8bit"])
@pytest.mark.parametrize("method", METHODS)
def test_killed_at_ten_random_steps_a_run_ends_in_the_bits_of_the_calm_one(
    tmp_path: Path, method: str, optimiser: str
) -> None:
    """Each method under each optimiser: not only what is published, but weights, moments, average and losses too."""
    chance = drawn()
    cache = tmp_path / "cache"
    shelf = asyncio.run(make(tmp_path / "store", build_sd1(tmp_path / "base")))
    # So wide that the moments of its tensors are held in 8 bits where that is asked for.
    params = {} if method == "full" else {"rank": 256, "alpha": 2.0}
    order = {**ORDER, "method": method, "optimiser": optimiser, "method_params": params}
    calm, shaken = asyncio.run(shelf.order(**order)), asyncio.run(shelf.order(**order))
    assert ended(shelf.start(calm, 1, cache)) == 0
    # Before the last checkpoint, for a run that has passed that is over soon.
    steps = sorted(chance.sample(range(1, STEPS - ORDER["checkpoint_every"]), KILLS))
    for attempt, step in enumerate(steps, start=1):
        process = shelf.start(shaken, attempt, cache)
        try:
            saved = step - step % ORDER["checkpoint_every"]
            if saved == 0 or came_past(shelf, shaken, attempt, saved, process):
                time.sleep(chance.uniform(0.0, PAUSE_S))
        finally:
            process.kill()
        if ended(process) == 0:
            break
        asyncio.run(shelf.begin(shaken))
    else:
        assert ended(shelf.start(shaken, KILLS + 1, cache)) == 0, steps
    print(f"{method} {optimiser}: killed about steps {steps}", flush=True)
    assert last_state(shelf, shaken)[:2] == last_state(shelf, calm)[:2], steps
    assert asyncio.run(weights(shelf, shaken)) == asyncio.run(weights(shelf, calm)), steps
    eights = any(value.dtype is torch.uint8 for value in load(last_state(shelf, calm)[2]).values())
    assert eights == (optimiser == "adamw_8bit")


def harried(shelf: Shelf, job_id: str, cache: Path, chance: random.Random, life_s: float) -> list[str]:
    """Bring a run to its end through some kills; returns where each one came."""
    where: list[str] = []
    for attempt in range(1, chance.randint(1, MOST_KILLS) + 1):
        process = shelf.start(job_id, attempt, cache)
        try:
            if chance.random() < EARLY:
                after = chance.uniform(0.0, life_s)
                place = f"after {after:.2f} s"
                time.sleep(after)
            else:
                step = chance.randrange(reached(shelf, job_id) + 1, STEPS)
                after = chance.uniform(0.0, PAUSE_S)
                place = f"at step {step} + {after:.3f} s"
                if came_past(shelf, job_id, attempt, step - step % ORDER["checkpoint_every"], process):
                    time.sleep(after)
        finally:
            process.kill()
        code = ended(process)
        if code == 0:
            return where
        assert code == -signal.SIGKILL, f"attempt {attempt}, {place}"
        where.append(place)
        asyncio.run(shelf.begin(job_id))
    assert ended(shelf.start(job_id, attempt + 1, cache)) == 0, where
    return where


def reached(shelf: Shelf, job_id: str) -> int:
    """The step of the most advanced checkpoint of any attempt."""
    marks = shelf.attempt_folder(job_id, 1).parent.glob("*/checkpoints/*/manifest.json")
    return max((int(mark.parent.name) for mark in marks), default=0)


async def weights(shelf: Shelf, job_id: str) -> str:
    """What the run published, as one digest."""
    return await tensors(shelf.blobs, await shelf.model(job_id))
