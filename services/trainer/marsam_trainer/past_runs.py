"""What past runs took beside what had been expected of them: plans of runs of their kind are corrected by it.

Kept in memory only: it is read from the ends of the project's newest runs, and from each run's end once.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from marsam.catalog.runs import RunSpec
from marsam.core.errors import MarsamError
from marsam.core.memory import make_room
from marsam.jobs.heads import gathered
from marsam.jobs.states import State
from marsam.telemetry import Log
from marsam_trainer.runs import Runs

LOOKED_AT = 64
"""Newest finished runs of a project that are asked."""

ENOUGH = 3
"""Runs of a kind from which on their median says more than arithmetic."""

FAR = 3.0
"""A correction goes no further than this, up or down: beyond it the plan or the measurement is broken."""

_KEPT = 1024
_LOG = Log(__name__)


@dataclass(frozen=True, kw_only=True)
class Correction:
    """Medians of measured over expected, of so many `runs` of a kind; 1 where they were too few."""

    runs: int = 0
    memory: float = 1.0
    time: float = 1.0


ARITHMETIC = Correction()
"""None at all."""


@dataclass(frozen=True, kw_only=True)
class _Sample:
    kind: tuple[object, ...]
    memory: float
    time: float


class PastRuns:
    """Learns from runs that succeeded."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._samples: dict[tuple[str, str], _Sample | None] = {}

    async def correction(self, project: str, spec: RunSpec, *, family: str, device: str) -> Correction:
        """How plans of runs like `spec` on such a device are to be corrected. A store that does not answer corrects
        nothing."""
        try:
            samples = await self._newest(project)
        except MarsamError as error:
            _LOG.warning("past_runs.unread", reason=error.reason, message=error.message)
            return ARITHMETIC
        kind = kind_of(spec, family=family, device=device)
        return corrected_by([(one.memory, one.time) for one in samples if one.kind == kind])

    async def _newest(self, project: str) -> list[_Sample]:
        index = await self._runs.index(project)
        rows, _ = index.page(size=LOOKED_AT, states=(State.SUCCEEDED,))
        ids = [row.job_id for row in rows]
        unread = [run_id for run_id in ids if (project, run_id) not in self._samples]

        async def read(run_id: str) -> _Sample | None:
            return await self._read(project, run_id)

        for run_id, sample in (await gathered(read, unread)).items():
            make_room(self._samples, _KEPT)
            self._samples[project, run_id] = sample
        found = (self._samples.get((project, run_id)) for run_id in ids)
        return [sample for sample in found if sample is not None]

    async def _read(self, project: str, run_id: str) -> _Sample | None:
        spec = await self._runs.spec(project, run_id)
        head = (await self._runs.history(project, run_id))[-1]
        return sample_of(spec, head.detail)


def kind_of(spec: RunSpec, *, family: str, device: str) -> tuple[object, ...]:
    """What runs must share for one to tell of another."""
    tuned = tuple(bool(spec.method_params.get(name)) for name in ("dora", "text_encoders", "image_decoder"))
    held = (spec.precision, spec.gradient_checkpointing, spec.optimiser, spec.sharding)
    return family, spec.method, device.partition(":")[0], *held, *tuned


def sample_of(spec: RunSpec, told: Mapping[str, Any]) -> _Sample | None:
    """What a run's end tells; None when it does not say what was expected."""
    metrics = told.get("metrics")
    if not isinstance(metrics, Mapping) or "family" not in told or "device" not in told:
        return None
    memory = _ratio(metrics, "measured_peak_bytes", "estimated_peak_bytes")
    time = _ratio(metrics, "step_seconds", "estimated_step_seconds")
    kind = kind_of(spec, family=str(told["family"]), device=str(told["device"]))
    return _Sample(kind=kind, memory=memory, time=time) if memory and time else None


def corrected_by(ratios: list[tuple[float, float]]) -> Correction:
    """The correction that (memory, time) ratios of past runs ask for."""
    if len(ratios) < ENOUGH:
        return ARITHMETIC
    memory, time = (min(FAR, max(1 / FAR, median(values))) for values in zip(*ratios, strict=True))
    return Correction(runs=len(ratios), memory=memory, time=time)


def _ratio(metrics: Mapping[str, Any], measured: str, expected: str) -> float:
    try:
        return float(metrics[measured]) / float(metrics[expected])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return 0.0
