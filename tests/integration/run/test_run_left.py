"""The seconds that a run says are left: what it does between its steps counts too."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from marsam_trainer.run import effect
from marsam_trainer.run.bridge import Bridge
from marsam_trainer.run.data import Encoder
from marsam_trainer.run.drawing import Drawing
from marsam_trainer.run.feed import Batch, TrainingSet
from marsam_trainer.run.reporter import Reporter
from marsam_trainer.run.saving import Saver
from marsam_trainer.run.stepping import take_steps
from marsam_trainer.run.validation import HeldOut
from marsam_trainer.run.work import Work

from marsam.catalog.runs import Preview
from marsam.telemetry.meter import Meter
from tests.contract.families import rig as rigs
from tests.integration.run.store import Shelf

SLOW_S = 0.5


@dataclass(frozen=True)
class Asked:
    """One batch held out, which takes its time."""

    batch: Batch
    samples: TrainingSet
    wait: Callable[[], None]

    def __iter__(self) -> Iterator[Batch]:
        self.wait()
        yield self.batch


@dataclass(frozen=True, kw_only=True)
class Drawn(Drawing):
    """Previews that take their time and do not come about."""

    wait: Callable[[], None]

    def draw(self, *, stopping: Callable[[], bool] = bool) -> None:
        self.wait()


@pytest.mark.slow
def test_pictures_held_out_and_previews_count_for_the_time_that_is_left(
    shelf: Shelf, base_folder: Path, tmp_path: Path
) -> None:
    rig = rigs.load(base_folder, "sd1", "lora")
    loop = rigs.loop(rig, steps=3)
    order: dict[str, Any] = {"steps": 3, "checkpoint_every": 2, "preview": Preview(prompts=("a kite",), every=1)}
    with Bridge() as bridge:
        job_id = bridge.call(shelf.order(**order))
        meter = Meter(service="run", version="0")
        reporter = Reporter(bridge, shelf.jobs, job_id, 1, meter, steps=3, device="cpu", family="sd1", method="lora")

        def told() -> Iterable[dict[str, Any]]:
            return [event for event in bridge.call(shelf.events(job_id, 1)) if event["kind"] == "progress"]

        def wait() -> None:
            """Until the world was told of the last step, and `SLOW_S` at least."""
            time.sleep(SLOW_S)
            while not any(event["step"] == loop.position.step for event in told()):
                time.sleep(0.02)

        work = Work(
            bridge=bridge, jobs=shelf.jobs, spec=shelf.spec(job_id, **order), base=shelf.base, version=shelf.version,
            regularisation=None, attempt=1, cache=tmp_path, cache_bytes=None, device="cpu", cores=1, lanes=1,
            meter=meter, reporter=reporter, stopping=lambda: False,
        )  # fmt: skip
        drawing = Drawn(
            family=rig.family, parts=rig.parts, encoder=cast(Encoder, None), prompts=["a kite"], texts=None, side=32,
            seed=5, wait=wait,
        )  # fmt: skip
        held_out = cast(HeldOut, Asked(loop.feed.batch(0), loop.feed.samples, wait))
        with reporter, Saver(work, tmp_path) as saver:
            take_steps(work, loop, effect.Start(loop.trained), drawing, held_out, saver)
        first = {step: next(event for event in told() if event["step"] == step) for step in (0, 1, 2, 3)}
        last = list(told())[-1]
    assert "eta_seconds" not in first[0]
    # Asked after 2 and 3 steps; how long a preview takes is known after the first.
    assert first[1]["eta_seconds"] >= 2 * SLOW_S
    assert first[2]["eta_seconds"] >= 3 * SLOW_S
    assert first[3]["eta_seconds"] >= SLOW_S
    assert (last["step"], last["eta_seconds"]) == (3, 0.0)
