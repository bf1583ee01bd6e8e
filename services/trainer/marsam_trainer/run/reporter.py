"""What the world learns of a run while it works: events and a heartbeat in the store every second, and metrics to
scrape."""

import math
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from marsam.core.averages import MovingAverage
from marsam.core.clock import format_time
from marsam.core.errors import MarsamError, Precondition
from marsam.jobs.progress import append_events, heartbeat
from marsam.jobs.store import JobStore
from marsam.telemetry import metrics
from marsam.telemetry.logs import Log
from marsam.telemetry.memory import MemoryReading, process_memory
from marsam.telemetry.meter import Meter
from marsam_trainer.run.bridge import Bridge

TICK_S = 1.0
SILENCE_S = 120.0
"""After this long without a successful write the run gives up: it would work on for nobody."""

LAST_TRIES = 5
"""How often the last words of a run are tried."""

_log = Log(__name__)


def device_memory(device: str) -> MemoryReading:
    """What the training device holds: resident bytes of this process for `cpu`, torch's own count for CUDA."""
    if device.startswith("cuda"):
        from marsam.diffusion.devices.net import gpu_reading

        return gpu_reading(int(device.partition(":")[2] or 0))
    return next(iter(process_memory()))


class Silent:
    """What a rank reports that is not the first: nothing. The first one speaks for all."""

    def phase(self, name: str, done: int = 0, of: int = 0) -> None: ...

    def step(self, step: int, **numbers: Any) -> None: ...

    def between(self, aside: float) -> None: ...

    def went_before(self, losses: Sequence[float]) -> None: ...

    def event(self, kind: str, **fields: Any) -> None: ...

    def expect(self, peak: int) -> None: ...

    def check(self) -> None: ...


class Reporter:
    """Collects what the run says and writes it on a thread of its own, so that a slow store never slows a step."""

    def __init__(
        self,
        bridge: Bridge,
        jobs: JobStore,
        job_id: str,
        attempt: int,
        meter: Meter,
        *,
        steps: int,
        device: str,
        family: str,
        method: str,
        metrics_port: int = 0,
    ) -> None:
        self._bridge, self._jobs, self._id, self._attempt, self._meter = bridge, jobs, job_id, attempt, meter
        self._steps, self._device, self._family, self._method = steps, device, family, method
        self._lock = threading.Lock()
        self._waiting: list[dict[str, Any]] = []
        self._progress: dict[str, Any] = {"kind": "progress", "phase": "loading", "step": 0, "steps": steps}
        if metrics_port:
            self._progress["metrics_port"] = metrics_port
        self._segment = 1
        self._sending: list[dict[str, Any]] = []
        self._told = time.monotonic()
        self._ended = threading.Event()
        self._failure: MarsamError | None = None
        self._thread = threading.Thread(target=self._work, name="run.reporter", daemon=True)
        self._average = MovingAverage()
        self._smooth: float | None = None
        self._counted = time.monotonic()
        self._own_steps = 0
        self._expected = 0
        self._own_seconds = 0.0
        self._of_steps: float | None = None
        self._image_rate = meter.rate(metrics.TRAINING_IMAGES_PER_SECOND, family=family, method=method)
        self._step_rate = meter.rate(metrics.TRAINING_STEPS_PER_SECOND, family=family, method=method)
        meter.set(metrics.RUN_ATTEMPT, attempt)
        meter.set(metrics.TRAINING_STEPS_PLANNED, steps)
        # What is there from the first scrape on has a rate from the second on.
        for counter in (metrics.TRAINING_STEPS, metrics.TRAINING_IMAGES):
            meter.begin(counter, family=family, method=method)
        meter.begin(metrics.TRAINING_NOT_FINITE)

    def __enter__(self) -> "Reporter":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(timeout=60.0)

    def phase(self, name: str, done: int = 0, of: int = 0) -> None:
        """Say what the run is at: loading, caching, training, preview, publishing. `done` of `of` where it can be
        counted."""
        with self._lock:
            self._spend()
            self._progress.update(phase=name, done=done, of=of)

    def step(
        self,
        step: int,
        *,
        loss: float,
        norm: float,
        images: int,
        seconds: float,
        spent: Mapping[str, float],
        learning_rate: float,
        aside: float,
    ) -> None:
        """Report one step: `step` are done, this one took `seconds` for `images` pictures, `spent` says on what.
        `aside` are the seconds still to come between steps."""
        self._own_steps += 1
        self._own_seconds += seconds
        family, method = self._family, self._method
        self._image_rate.add(images)
        self._step_rate.add(1)
        self._meter.inc(metrics.TRAINING_STEPS, family=family, method=method)
        self._meter.inc(metrics.TRAINING_IMAGES, images, family=family, method=method)
        self._meter.observe(metrics.TRAINING_STEP_SECONDS, seconds, family=family, method=method)
        for phase, part in spent.items():
            self._meter.inc(metrics.TRAINING_STEP_PHASE_SECONDS, part, phase=phase)
        self._meter.set(metrics.TRAINING_STEP, step)
        self._meter.set(metrics.TRAINING_PROGRESS, step / self._steps)
        self._meter.set(metrics.TRAINING_LEARNING_RATE, learning_rate)
        if math.isfinite(loss):
            self._smooth = self._average.add(step, loss)
            self._meter.set(metrics.TRAINING_LOSS, loss, family=family, method=method)
            self._meter.set(metrics.TRAINING_GRADIENT_NORM, norm)
        else:
            self._meter.inc(metrics.TRAINING_NOT_FINITE)
        # From this attempt's own steps: those of an attempt before say nothing about this machine.
        pace = self._own_seconds / self._own_steps
        self._of_steps = pace * (self._steps - step)
        with self._lock:
            self._spend()
            self._progress.update(
                phase="training",
                step=step,
                loss=self._smooth,
                images_per_second=images / pace,
                eta_seconds=self._of_steps + aside,
                learning_rate=learning_rate,
                done=step,
                of=self._steps,
            )

    def went_before(self, losses: Sequence[float]) -> None:
        """Say what the steps of the attempts before lost, in their order: the loss that is told goes on from there."""
        for step, loss in enumerate(losses, 1):
            if math.isfinite(loss):
                self._average.add(step, loss)

    def between(self, aside: float) -> None:
        """Report that something between steps was done, and that `aside` seconds of such are still to come."""
        if self._of_steps is not None:
            with self._lock:
                self._progress["eta_seconds"] = self._of_steps + aside

    def expect(self, peak: int) -> None:
        """Say how many bytes the run is expected to need; what it takes is compared with that from here on."""
        self._meter.set(metrics.RUN_MEMORY_ESTIMATED, peak)
        self._expected = peak

    def event(self, kind: str, **fields: Any) -> None:
        """Tell one thing, once."""
        with self._lock:
            self._waiting.append({"kind": kind, "at": format_time(self._jobs.clock.now()), **fields})

    def check(self) -> None:
        """Raise what made reporting impossible: a newer attempt has taken over, or the store is gone for good."""
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        left = LAST_TRIES
        while left:
            ended = self._ended.wait(TICK_S)
            try:
                self._tell()
                self._told = time.monotonic()
            except MarsamError as error:
                if isinstance(error, Precondition) or time.monotonic() - self._told > SILENCE_S:
                    self._failure = error
                    return
                _log.warning("report.delayed", reason=error.reason, message=error.message)
                if ended:
                    left -= 1
                    time.sleep(TICK_S)
                continue
            # A repeated segment may have gone out instead of the last words.
            if ended and not self._waiting:
                return

    def _tell(self) -> None:
        # What is being sent stays as it is until it is known to be there: writing the same bytes twice is harmless.
        sending = self._sending or self._collect()
        self._sending = sending
        self._bridge.call(self._jobs.check_fence(self._id, self._attempt), timeout_s=30.0)
        self._bridge.call(append_events(self._jobs, self._id, self._attempt, self._segment, sending), timeout_s=30.0)
        self._segment += 1
        self._sending = []
        self._bridge.call(heartbeat(self._jobs, self._id, self._attempt, sending[-1]), timeout_s=30.0)

    def _collect(self) -> list[dict[str, Any]]:
        """All that was said since, and how far the run is."""
        memory = device_memory(self._device)
        if self._expected:
            self._meter.set(metrics.RUN_MEMORY_RATIO, memory.peak / self._expected)
        with self._lock:
            self._spend()
            self._progress.update(
                at=format_time(self._jobs.clock.now()), memory_used_bytes=memory.used, memory_peak_bytes=memory.peak
            )
            said, self._waiting = self._waiting, []
            return [*said, {key: value for key, value in self._progress.items() if value is not None}]

    def _spend(self) -> None:
        """Count the time since the last call towards what the run has been at; `_lock` is held."""
        now = time.monotonic()
        self._meter.inc(metrics.RUN_PHASE_SECONDS, now - self._counted, phase=self._progress["phase"])
        self._meter.inc(metrics.RUN_DEVICE_SECONDS, now - self._counted, device=self._device)
        self._counted = now
