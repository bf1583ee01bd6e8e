"""Checkpoints saved beside the steps: a step waits while the state is copied, not while it is written, hashed and sent.

Where each rank holds a part of the model, ranks have words with one another while they save, and steps wait for all of
it: words of two threads must not mix.
"""

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import TracebackType

import torch

from marsam.catalog.checkpoints import Checkpoint, StatePart
from marsam.core.ids import digest_of
from marsam.core.records import canonical
from marsam.telemetry import metrics
from marsam_trainer.run import checkpoint, compatible, publish
from marsam_trainer.run.bridge import FILES_S
from marsam_trainer.run.finite import not_finite, spoilt
from marsam_trainer.run.loop import Loop
from marsam_trainer.run.ranks import checksums
from marsam_trainer.run.work import Work


class Saver:
    """Saves one checkpoint at a time, and none that holds numbers that are not finite. A context manager: what is under
    way when it ends is finished first."""

    def __init__(self, work: Work, scratch: Path, *, kept: Checkpoint | None = None) -> None:
        """`kept` is the checkpoint that the attempt goes on from."""
        self._work = work
        self._kept = kept
        self._path = scratch / "checkpoint.safetensors"
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._under_way: Future[None] | None = None
        self._longest_pause = 0.0
        self._size = 0

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.shutdown(wait=True)
        if error is None:
            self.wait()

    @property
    def numbers(self) -> dict[str, float]:
        """The most seconds that steps stood still for a checkpoint, and the bytes of the last; nothing without one."""
        if not self._size:
            return {}
        return {"checkpoint_pause_seconds": self._longest_pause, "checkpoint_bytes": float(self._size)}

    @property
    def kept(self) -> str:
        """What a new attempt would go on from, in words; what is under way does not count yet."""
        if self._kept is None:
            return "no checkpoint was kept before"
        where = f"step {self._kept.step} of attempt {self._kept.attempt}"
        return f"the last checkpoint of finite numbers is that of {where}"

    def save(self, loop: Loop) -> None:
        """Begin to save where the loop is. Waits for the checkpoint before, and raises what became of it: that it holds
        numbers that are not finite is a `Precondition` (LOSS_NOT_FINITE)."""
        began = time.monotonic()
        self._work.reporter.phase("checkpoint")
        self.wait()
        if loop.holding.sharded:
            self._write_part(loop)
        else:
            self._work.world.meet()  # however long the first waited
            self._work.world.same("trained weights", checksums(loop.trained))
            if self._work.world.first:
                state = {name: value.to("cpu", copy=True) for name, value in loop.state().items()}
                self._under_way = self._writer.submit(self._write, state, self._mark(loop))
        pause = time.monotonic() - began
        self._longest_pause = max(self._longest_pause, pause)
        self._work.meter.set(metrics.CHECKPOINT_PAUSE_SECONDS, pause)

    def check(self) -> None:
        """Raise what became of the checkpoint under way, if that is known."""
        if self._under_way is not None and self._under_way.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the checkpoint under way is whole; raise what became of it. The store's own patience bounds the
        wait."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def check_numbers(self, loop: Loop) -> None:
        """Raise `Precondition` (LOSS_NOT_FINITE) where any rank's state holds numbers that are not finite. All ranks
        must ask, when no checkpoint is under way."""
        odd = dict.fromkeys(name for rank in loop.world.gathered(not_finite(loop.state())) for name in rank)
        if odd:
            raise spoilt(list(odd), loop.position.step, loop.world.told(self.kept))

    def _write(self, state: Mapping[str, torch.Tensor], mark: Checkpoint) -> None:
        began = time.monotonic()
        if odd := not_finite(state):
            raise spoilt(odd, mark.step, self.kept)
        digest, size = checkpoint.write_state(state, self._path)
        mark = replace(mark, state_digest=digest, state_size=size)
        self._work.bridge.call(checkpoint.save(self._work.place, mark, self._path), timeout_s=FILES_S)
        self._told(mark, began)

    def _write_part(self, loop: Loop) -> None:
        """Store this rank's part of the state; the first makes the checkpoint count when all are there."""
        began, work = time.monotonic(), self._work
        world = work.world
        self.check_numbers(loop)
        digest, size = checkpoint.write_state(loop.state(), self._path)
        work.bridge.call(
            checkpoint.save_part(
                work.place, work.attempt, loop.position.step, self._path, digest, rank=world.rank, of=world.size
            ),
            timeout_s=FILES_S,
        )
        parts = tuple(StatePart(digest=digest, size=size) for digest, size in world.gathered((digest, size)))
        whole = digest_of(canonical([part.digest for part in parts]))
        size = sum(part.size for part in parts)
        mark = replace(self._mark(loop), state_digest=whole, state_size=size, parts=parts)
        if world.first:
            work.bridge.call(checkpoint.commit(work.place, mark))
        self._told(mark, began)

    def _mark(self, loop: Loop) -> Checkpoint:
        """What a checkpoint of the loop says of itself, its state left out."""
        return Checkpoint(
            attempt=self._work.attempt,
            step=loop.position.step,
            spec_digest=compatible.digest(self._work.spec),
            state_digest="",
            state_size=0,
            cores=loop.lanes.cores,
            lanes=loop.lanes.count,
            code_version=publish.code_version(),
            libraries=publish.libraries(),
            device=self._work.device_kind,
            order=compatible.order_of(self._work.spec),
        )

    def _told(self, mark: Checkpoint, began: float) -> None:
        self._path.unlink()
        self._kept = mark
        self._size, meter = mark.state_size, self._work.meter
        meter.inc(metrics.CHECKPOINTS)
        meter.set(metrics.CHECKPOINT_SECONDS, time.monotonic() - began)
        meter.set(metrics.CHECKPOINT_BYTES, mark.state_size)
        tell_kept(self._work, mark.step)
        self._work.reporter.event("checkpoint", step=mark.step, bytes=mark.state_size)


def tell_kept(work: Work, step: int) -> None:
    """Tell that a new attempt would go on from `step`."""
    work.meter.set(metrics.CHECKPOINT_STEP, step)
    work.meter.set(metrics.CHECKPOINT_TIME, work.jobs.clock.now().timestamp())
