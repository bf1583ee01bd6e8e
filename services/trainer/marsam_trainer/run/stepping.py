"""The steps of an attempt: from its last checkpoint to its last step, with checkpoints and previews on the way."""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from safetensors.torch import load_file

from marsam.catalog.checkpoints import Checkpoint
from marsam.core.errors import Precondition
from marsam.telemetry import metrics
from marsam.telemetry.logs import Log
from marsam_trainer.run import codes, compatible, effect, publish
from marsam_trainer.run.asides import Aside, Asides
from marsam_trainer.run.drawing import Drawing, show
from marsam_trainer.run.finite import REMEDY
from marsam_trainer.run.loop import Loop
from marsam_trainer.run.ranks import agreed
from marsam_trainer.run.saving import Saver, tell_kept
from marsam_trainer.run.validation import HeldOut
from marsam_trainer.run.work import Stopped, Work

NOT_FINITE_LIMIT = 3
"""Steps in a row without a finite loss after which a run ends: it does not come back by itself."""

_log = Log(__name__)


def resume(work: Work, loop: Loop, mark: Checkpoint, state: Path) -> None:
    """Continue from a checkpoint of the attempts before."""
    compatible.check(mark, work.spec)
    loop.restore(load_file(state), mark.step)
    state.unlink()
    work.reporter.went_before(loop.position.losses)
    _log.info("run.resumed", step=mark.step, attempt=mark.attempt)
    work.reporter.event("log", level="info", message=f"resumed at step {mark.step} of attempt {mark.attempt}")
    for remark in compatible.remarks(
        mark,
        code_version=publish.code_version(),
        libraries=publish.libraries(),
        device=work.device_kind,
        lanes=loop.lanes.count,
    ):
        work.reporter.event("log", level="warning", message=remark)


def take_steps(
    work: Work, loop: Loop, start: effect.Start, drawing: Drawing, held_out: HeldOut | None, saver: Saver
) -> float:
    """Take every step that is left, and return the seconds that steps took. Raises `Stopped`, or `Precondition`
    (LOSS_NOT_FINITE) when losses stay NaN, or when what the steps left is no numbers: neither is kept or published."""
    spec, spent, saved = work.spec, 0.0, loop.position.step
    asides = Asides(spec)
    work.meter.set(metrics.CHECKPOINT_EVERY, spec.checkpoint_every)
    work.meter.begin(metrics.CHECKPOINTS)
    tell_kept(work, saved)
    # A checkpoint is saved before its step is validated: who goes on from one asks what was not answered.
    if not _validate(work, loop, held_out, asides):
        _stop(work, loop, saver, saved)
    while not loop.done:
        if work.world.any(work.stopping()):
            _stop(work, loop, saver, saved)
        work.reporter.check()
        saver.check()
        began, shown = time.monotonic(), loop.shown
        loss = loop.step()
        seconds = time.monotonic() - began
        spent += seconds
        done = loop.position.step
        work.reporter.step(
            done,
            loss=loss,
            norm=loop.norm,
            images=loop.shown - shown,
            seconds=seconds,
            spent=loop.spent,
            learning_rate=loop.plan.rate(done - 1),
            aside=asides.left(done),
        )
        if loop.position.unlearnt() >= NOT_FINITE_LIMIT:
            _finish(work, saver)
            raise Precondition(
                f"{NOT_FINITE_LIMIT} steps in a row, up to step {done}, gave no finite loss; "
                + work.world.told(saver.kept),
                reason=codes.NOT_FINITE_REASON,
                remedy=REMEDY,
            )
        if done == effect.EARLY:
            start.check(loop)
        # While losses are not finite there is nothing worth keeping: the checkpoint before is the good one.
        if done % spec.checkpoint_every == 0 and not loop.done and math.isfinite(loss):
            with _measured(work, asides, "checkpoint", done):
                saver.save(loop)
            saved = done
        # After the last step too: what was best is not known before that is answered.
        if not _validate(work, loop, held_out, asides):
            _stop(work, loop, saver, saved)
        if spec.preview and done % spec.preview.every == 0 and not loop.done:
            with _measured(work, asides, "preview", done), loop.averaged():
                show(work, drawing, done)
    _finish(work, saver)
    saver.check_numbers(loop)
    return spent


def _finish(work: Work, saver: Saver) -> None:
    """See the checkpoint under way to its end before this rank ends: the others' end would cut it short."""
    saver.wait()
    work.world.meet()


def _stop(work: Work, loop: Loop, saver: Saver, saved: int) -> NoReturn:
    """Save where the loop is, unless that is what was `saved` last, and end the attempt in good order."""
    if loop.position.step > saved:
        saver.save(loop)
    _finish(work, saver)
    raise Stopped


@contextlib.contextmanager
def _measured(work: Work, asides: Asides, what: Aside, step: int) -> Iterator[None]:
    """Note how long something between steps took, and tell what is still to come."""
    began = time.monotonic()
    yield
    asides.took(what, step, time.monotonic() - began)
    work.reporter.between(asides.left(step))


def _validate(work: Work, loop: Loop, held_out: HeldOut | None, asides: Asides) -> bool:
    """Ask for the loss on what is held out, where that is due: before the first step, with every checkpoint, at the
    end. False when a stop broke it off."""
    step, noted = loop.position.step, loop.position.validation
    due = step % work.spec.checkpoint_every == 0 or loop.done
    if held_out is None or not due or (noted and noted[-1][0] == step):
        return True
    with _measured(work, asides, "validation", step):
        loss = loop.validate(held_out, stopping=agreed(work.world, work.stopping))
    if loss is None:
        return False
    beside = f", {noted[0][1]:.4f} before the first" if step and noted and noted[0][0] == 0 else ""
    message = f"loss on {len(held_out.samples)} pictures held out: {loss:.4f} after {step} steps{beside}"
    work.reporter.event("log", level="info" if math.isfinite(loss) else "warning", message=message)
    return True
