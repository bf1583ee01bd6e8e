"""What the world learns of a run: events without loss or repetition, a heartbeat, and an end when there is no use in
going on."""

import asyncio
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from marsam_trainer.run import codes, publish
from marsam_trainer.run.bridge import Bridge
from marsam_trainer.run.reporter import Reporter

from marsam.api.common.v1 import common_pb2
from marsam.api.model.v1 import model_pb2
from marsam.api.trainer.v1 import trainer_pb2
from marsam.cli.compare.gather import gather
from marsam.core.clock import SystemClock
from marsam.core.errors import Deadline, Precondition, Unavailable
from marsam.core.ids import new_ulid
from marsam.jobs.progress import read_events, read_heartbeat
from marsam.jobs.states import State
from marsam.jobs.store import JobStore
from marsam.store.folder import FolderBlobs
from marsam.telemetry import metrics
from marsam.telemetry.meter import Meter


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    with Bridge() as made:
        yield made


@pytest.fixture
def jobs(tmp_path: Path) -> JobStore:
    return JobStore(FolderBlobs(tmp_path / "store"), "hayy", "runs", SystemClock())


async def _begun(jobs: JobStore) -> str:
    made, _ = await jobs.create(request=new_ulid().encode(), request_id="", spec_for=lambda _: b"{}")
    await jobs.append(made, await jobs.head(made), State.STARTING)
    return made


@pytest.fixture
def job_id(jobs: JobStore, bridge: Bridge) -> str:
    return bridge.call(_begun(jobs))


def _reporter(bridge: Bridge, jobs: JobStore, job_id: str, meter: Meter | None = None) -> Reporter:
    meter = meter or Meter(service="run", version="0")
    return Reporter(bridge, jobs, job_id, 1, meter, steps=10, device="cpu", family="sd1", method="lora")


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_everything_said_arrives_once_and_in_order(bridge: Bridge, jobs: JobStore, job_id: str) -> None:
    meter = Meter(service="run", version="0")
    with _reporter(bridge, jobs, job_id, meter) as reporter:
        reporter.phase("caching", 3, 9)
        for step in (1, 2, 3):
            reporter.step(
                step,
                loss=1.0 / step,
                norm=2.0,
                images=4,
                seconds=0.5,
                spent={"data": 0.1, "forward": 0.4},
                learning_rate=1e-3,
                aside=20.0,
            )
            reporter.event("checkpoint", step=step)
        reporter.between(2.0)
    events, _ = bridge.call(read_events(jobs, job_id, 1))
    assert [event["step"] for event in events if event["kind"] == "checkpoint"] == [1, 2, 3]
    last = events[-1]
    assert (last["kind"], last["phase"], last["step"], last["steps"]) == ("progress", "training", 3, 10)
    assert last["images_per_second"] == pytest.approx(8.0)
    assert last["eta_seconds"] == pytest.approx(5.5)
    beat = bridge.call(read_heartbeat(jobs, job_id, 1))
    assert beat is not None
    assert beat.payload["step"] == 3
    assert meter.value("marsam_training_images_total", family="sd1", method="lora") == 12
    assert meter.value(metrics.TRAINING_PROGRESS.name) == pytest.approx(0.3)


def test_a_loss_that_is_no_number_does_not_spoil_the_curve(bridge: Bridge, jobs: JobStore, job_id: str) -> None:
    with _reporter(bridge, jobs, job_id) as reporter:
        reporter.step(1, loss=2.0, norm=1.0, images=1, seconds=0.1, spent={}, learning_rate=1.0, aside=0.0)
        reporter.step(2, loss=float("nan"), norm=1.0, images=1, seconds=0.1, spent={}, learning_rate=1.0, aside=0.0)
    events, _ = bridge.call(read_events(jobs, job_id, 1))
    assert events[-1]["loss"] == 2.0


LOSSES = [0.5 + 0.4 * math.sin(7.0 * step) for step in range(30)]


def _told(bridge: Bridge, jobs: JobStore, losses: Sequence[float], before: Sequence[float] = ()) -> float:
    """The loss that a run tells after steps that lost so much, `before` them those of another attempt."""
    job_id = bridge.call(_begun(jobs))
    with _reporter(bridge, jobs, job_id) as reporter:
        reporter.went_before(before)
        for step, loss in enumerate(losses, len(before) + 1):
            reporter.step(step, loss=loss, norm=1.0, images=1, seconds=0.1, spent={}, learning_rate=1.0, aside=0.0)
    return float(bridge.call(read_events(jobs, job_id, 1))[0][-1]["loss"])


class Shown:
    """As much of the SDK as a comparison asks of a run that published a curve."""

    def __init__(self, losses: Sequence[float]) -> None:
        self.models = self
        self._curve = json.dumps({"loss": publish.curve(losses)}).encode()

    async def get(self, name: str) -> model_pb2.Model:
        return model_pb2.Model(name=name, samples=[common_pb2.FileRef(path=publish.CURVE, digest="curve")])

    async def read_artifact(self, name: str, digest: str) -> bytes:
        return self._curve if digest == "curve" else b"[]"


def test_losses_of_published_models_are_averaged_as_a_run_tells_them(bridge: Bridge, jobs: JobStore) -> None:
    run = trainer_pb2.Run(name="projects/p/runs/r", model="projects/p/models/m", state=common_pb2.JOB_STATE_SUCCEEDED)
    shown = asyncio.run(gather(Shown(LOSSES), run))  # type: ignore[arg-type]
    assert [step for step, _ in shown.losses] == list(range(1, 31))
    told = [_told(bridge, jobs, LOSSES[:count]) for count in (1, 2, 11, 30)]
    assert [shown.losses[count - 1][1] for count in (1, 2, 11, 30)] == pytest.approx(told)


def test_the_loss_that_is_told_goes_on_from_the_attempt_before(bridge: Bridge, jobs: JobStore) -> None:
    spoilt = [*LOSSES[:8], math.nan, *LOSSES[8:]]
    assert _told(bridge, jobs, spoilt[12:], spoilt[:12]) == _told(bridge, jobs, spoilt)


def test_an_answer_that_was_lost_makes_no_second_copy(bridge: Bridge, jobs: JobStore, job_id: str) -> None:
    """The store writes a segment and the answer is lost: it is sent again as it was, though more was said meanwhile."""
    real, lost = jobs.blobs.create, []

    async def create(key: str, data: bytes) -> None:
        await real(key, data)
        if "/events/" in key and not lost:
            lost.append(key)
            raise Unavailable("the answer was lost")

    jobs.blobs.create = create  # type: ignore[method-assign]
    with _reporter(bridge, jobs, job_id) as reporter:
        reporter.event("log", message="one")
        _until(lambda: bool(lost))
        reporter.event("log", message="two")
    events, _ = bridge.call(read_events(jobs, job_id, 1))
    assert [event["message"] for event in events if event["kind"] == "log"] == ["one", "two"]


def test_a_newer_attempt_ends_this_one(bridge: Bridge, jobs: JobStore, job_id: str) -> None:
    async def again() -> None:
        head = await jobs.append(job_id, await jobs.head(job_id), State.PENDING)
        await jobs.append(job_id, head, State.STARTING)

    bridge.call(again())
    with _reporter(bridge, jobs, job_id) as reporter:

        def fenced() -> bool:
            try:
                reporter.check()
            except Precondition as error:
                return error.reason == "JOB_FENCED"
            return False

        _until(fenced)


def test_the_bridge_has_deadlines_and_hands_on_errors(bridge: Bridge) -> None:
    async def fail() -> None:
        raise Unavailable("no")

    with pytest.raises(Unavailable):
        bridge.call(fail())
    with pytest.raises(Deadline):
        bridge.call(asyncio.sleep(30), timeout_s=0.05)
    assert bridge.call(asyncio.sleep(0, result=7)) == 7


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), codes.OUT_OF_MEMORY),
        (Unavailable("x"), codes.STORE),
        (Deadline("x"), codes.STORE),
        (Precondition("x", reason=codes.NOT_FINITE_REASON), codes.NOT_FINITE),
        (OSError("disk"), codes.STORE),
        (ZeroDivisionError(), codes.INTERNAL),
    ],
)
def test_every_error_has_its_code(error: BaseException, code: int) -> None:
    assert codes.code_of(error) == code


def test_torchs_own_out_of_memory_is_out_of_memory() -> None:
    import torch

    assert codes.code_of(torch.OutOfMemoryError("x")) == codes.OUT_OF_MEMORY
