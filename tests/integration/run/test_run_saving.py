"""Checkpoints beside the steps: what they hold, and what becomes of a run whose store is slow or fails."""

import asyncio
import math
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from marsam_trainer.run import checkpoint, codes, effect
from marsam_trainer.run.bridge import Bridge
from marsam_trainer.run.drawing import Drawing
from marsam_trainer.run.feed import Batch
from marsam_trainer.run.loop import Loop
from marsam_trainer.run.position import Plan
from marsam_trainer.run.ranks import World
from marsam_trainer.run.reporter import Silent
from marsam_trainer.run.saving import Saver
from marsam_trainer.run.stepping import NOT_FINITE_LIMIT, take_steps
from marsam_trainer.run.work import Stopped, Work
from safetensors.torch import load_file

from marsam.catalog.checkpoints import MARK, STATE
from marsam.core.clock import SystemClock
from marsam.core.errors import Precondition, Unavailable
from marsam.core.ids import new_ulid
from marsam.jobs.store import JobStore
from marsam.store.blobs import Stat
from marsam.store.folder import FolderBlobs
from marsam.telemetry.meter import Meter
from tests.contract.families import rig as rigs
from tests.integration.run.store import PROJECT, Shelf

CALL_S = 0.2


class Gated(FolderBlobs):
    """A folder that takes no state while its gate is shut, or, `away`, none at all."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gate = threading.Event()
        self.away = False
        self.taken = 0

    async def put(self, key: str, data: Any, **more: Any) -> Stat:
        if key.endswith(STATE):
            await asyncio.to_thread(self.gate.wait, 60.0)
            if self.away:
                raise Unavailable("the store is away")
            self.taken += 1
        return await super().put(key, data, **more)


class Hasty(Bridge):
    """A bridge whose ordinary calls may take no longer than `CALL_S`."""

    def call(self, work: Coroutine[Any, Any, Any], *, timeout_s: float = CALL_S) -> Any:
        return super().call(work, timeout_s=timeout_s)


@pytest.fixture
def blobs(tmp_path: Path) -> Iterator[Gated]:
    found = Gated(tmp_path / "store")
    yield found
    found.gate.set()  # whatever became of the test, nobody waits on


@pytest.fixture
def work(shelf: Shelf, blobs: Gated, tmp_path: Path) -> Iterator[Work]:
    with Hasty() as bridge:
        yield Work(
            bridge=bridge,
            jobs=JobStore(blobs, PROJECT, "runs", SystemClock()),
            spec=shelf.spec(new_ulid(), checkpoint_every=1, steps=9),
            base=shelf.base,
            version=shelf.version,
            regularisation=None,
            attempt=1,
            cache=tmp_path / "cache",
            cache_bytes=None,
            device="cpu",
            cores=1,
            lanes=1,
            meter=Meter(service="run", version="0"),
            reporter=Silent(),
            stopping=lambda: False,
        )


@pytest.fixture
def loop(base_folder: Path) -> Loop:
    return rigs.loop(rigs.load(base_folder, "sd1", "lora"), steps=9, ema_decay=0.9)


def _state(loop: Loop) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in loop.state().items()}


def _kept(work: Work, blobs: Gated) -> list[int]:
    return sorted(int(mark.parent.name) for mark in blobs.root.glob(f"**/{work.spec.id}/**/{MARK}"))


def test_a_checkpoint_is_of_the_step_that_it_was_begun_at(work: Work, loop: Loop, blobs: Gated, tmp_path: Path) -> None:
    with Saver(work, tmp_path) as saver:
        loop.step()
        then = _state(loop)
        saver.save(loop)
        for _ in range(3):
            loop.step()
            saver.check()
        assert _kept(work, blobs) == []
        blobs.gate.set()
    assert _kept(work, blobs) == [1]
    found = asyncio.run(checkpoint.newest(work.place, 2, tmp_path))
    assert found is not None
    held = load_file(found[1])
    assert held.keys() == then.keys()
    assert all(torch.equal(held[name], value) for name, value in then.items())
    assert saver.numbers["checkpoint_bytes"] == float(found[0].state_size)


def test_a_checkpoint_may_take_longer_than_an_ordinary_call(
    work: Work, loop: Loop, blobs: Gated, tmp_path: Path
) -> None:
    opening = threading.Timer(5 * CALL_S, blobs.gate.set)
    with Saver(work, tmp_path) as saver:
        loop.step()
        saver.save(loop)
        opening.start()
    assert _kept(work, blobs) == [1]


@pytest.mark.parametrize("heard", ["between two steps", "at the next checkpoint", "at the end"])
def test_a_store_that_fails_is_heard_of(work: Work, loop: Loop, blobs: Gated, tmp_path: Path, heard: str) -> None:
    blobs.away = True
    with pytest.raises(Unavailable, match="away"), Saver(work, tmp_path) as saver:
        loop.step()
        saver.save(loop)
        blobs.gate.set()
        while heard == "between two steps":
            saver.check()
        if heard == "at the next checkpoint":
            loop.step()
            saver.save(loop)
    assert _kept(work, blobs) == []
    assert saver.numbers == {}


class Listening(World):
    """A world that notes which checkpoints were whole each time that all were to meet."""

    def __init__(self, work: Work, blobs: Gated) -> None:
        self._work, self._blobs = work, blobs
        self.met: list[list[int]] = []

    def meet(self) -> None:
        self.met.append(_kept(self._work, self._blobs))


class Spoilt:
    """Batches that are no numbers from the second on."""

    def __init__(self, feed: Any) -> None:
        self._feed, self.samples = feed, feed.samples

    def batch(self, step: int) -> Batch:
        batch: Batch = self._feed.batch(step)
        return replace(batch, noise=batch.noise * float("nan")) if step else batch


def test_no_rank_ends_a_run_without_numbers_before_the_checkpoint_under_way_is_whole(
    work: Work, loop: Loop, blobs: Gated, tmp_path: Path
) -> None:
    world = Listening(work, blobs)
    work, loop.feed = replace(work, world=world), cast(Any, Spoilt(loop.feed))
    opening = threading.Timer(5 * CALL_S, blobs.gate.set)
    with pytest.raises(Precondition) as caught, Saver(work, tmp_path) as saver:
        opening.start()
        take_steps(work, loop, effect.Start(loop.trained), cast(Drawing, None), None, saver)
    assert caught.value.reason == codes.NOT_FINITE_REASON
    assert loop.position.step == 1 + NOT_FINITE_LIMIT
    assert world.met[-1] == [1]


class Leaping(Plan):
    """A plan whose third step goes beyond all numbers."""

    def rate(self, step: int) -> float:
        return 1e39 if step == 2 else super().rate(step)


@pytest.mark.parametrize("steps", [9, 3], ids=["on the way", "at the end"])
def test_weights_that_are_no_numbers_are_neither_kept_nor_published(
    work: Work, loop: Loop, blobs: Gated, tmp_path: Path, steps: int
) -> None:
    """The loss of the step that spoils them is finite: it is told before the update."""
    blobs.gate.set()
    loop.plan = Leaping(**{**vars(loop.plan), "steps": steps})
    work = replace(work, spec=replace(work.spec, steps=steps))
    with pytest.raises(Precondition) as caught, Saver(work, tmp_path) as saver:
        take_steps(work, loop, effect.Start(loop.trained), cast(Drawing, None), None, saver)
    assert math.isfinite(loop.position.losses[2])
    assert caught.value.reason == codes.NOT_FINITE_REASON
    assert caught.value.message.startswith("step 3 left numbers that are not finite in param/")
    assert caught.value.message.endswith("the last checkpoint of finite numbers is that of step 2 of attempt 1")
    assert _kept(work, blobs) == [1, 2]
    found = asyncio.run(checkpoint.newest(work.place, 2, tmp_path))
    assert found is not None and found[0].step == 2
    assert all(value.isfinite().all() for value in load_file(found[1]).values())


@pytest.mark.parametrize("where", ["average", "optimiser/exp_avg_sq", "best"])
def test_nothing_of_a_checkpoint_is_other_than_numbers(
    work: Work, base_folder: Path, blobs: Gated, tmp_path: Path, where: str
) -> None:
    blobs.gate.set()
    loop = rigs.loop(rigs.load(base_folder, "sd1", "lora"), steps=9, ema_decay=0.9, keep_best=True)
    loop.step()
    loop.position.losses[0] = math.nan  # a step that was not learnt from is no fault
    loop.validate([loop.feed.batch(0)], stopping=lambda: False)
    with Saver(work, tmp_path) as saver:
        saver.save(loop)
    odd = next(name for name in loop.state() if name.startswith(f"{where}/"))
    loop.state()[odd].view(-1)[-1] = math.inf
    with pytest.raises(Precondition) as caught, Saver(work, tmp_path) as saver:
        loop.step()
        saver.save(loop)
    assert (odd in caught.value.message, _kept(work, blobs)) == (True, [1])


def test_a_stop_waits_for_the_checkpoint_of_its_step_and_writes_no_second(
    work: Work, loop: Loop, blobs: Gated, tmp_path: Path
) -> None:
    work = replace(work, stopping=lambda: loop.position.step == 2)
    opening = threading.Timer(3 * CALL_S, blobs.gate.set)
    with pytest.raises(Stopped), Saver(work, tmp_path) as saver:
        opening.start()
        take_steps(work, loop, effect.Start(loop.trained), cast(Drawing, None), None, saver)
    assert (_kept(work, blobs), blobs.taken) == ([1, 2], 2)
