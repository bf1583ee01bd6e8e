"""A run's own plan: made before it loads anything, compared with what it took in the end."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marsam.core.errors import Invalid
from marsam.diffusion.spec import BaseFacts
from marsam.telemetry.logs import Log
from marsam_trainer.run.plan import CONTEXT, expected
from marsam_trainer.run.reporter import device_memory
from marsam_trainer.run.work import Work

_GIB = 1 << 30
_log = Log(__name__)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes of the largest stage and seconds of a step, as they were expected; None where nobody could tell."""

    peak: int | None = None
    step_seconds: float = 0.0

    def beside(self, work: Work, *, seconds: float, steps: int) -> dict[str, float]:
        """Both figures beside what was measured: `steps` steps took `seconds`."""
        taken = {"step_seconds": seconds / steps} if steps else {}
        if self.peak is None:
            return taken
        measured = device_memory(work.device).peak + (0 if work.device == "cpu" else CONTEXT)
        return taken | {
            "estimated_peak_bytes": float(self.peak),
            "measured_peak_bytes": float(measured),
            "estimated_step_seconds": self.step_seconds,
        }


def estimate(work: Work, source: Path, facts: BaseFacts, *, lanes: int) -> Estimate:
    """What the run will need, told to whoever watches it.

    Raises Invalid (MEMORY_SHORT) when that, by what past runs took as its order was, is more than its machine has by
    the share `work.memory_limit`. That nobody can tell stops no run. What is kept to be compared is the arithmetic.
    """
    try:
        found = expected(
            work.spec,
            source,
            facts,
            (work.version, work.regularisation),
            device=work.device,
            lanes=lanes,
            together=work.world.local_size,
        )
    except Exception as error:
        _log.warning("run.not_planned", message=str(error))
        work.reporter.event("log", level="warning", message=f"what the run needs is not known: {error}")
        return Estimate()
    peak, has = int(found["each_bytes"]), int(found["available_bytes"])
    needs = round(int(found["total_bytes"]) * work.memory_correction)
    largest = max(found["memory"], key=lambda term: int(term["bytes"]))
    past = ", by what past runs took" if work.memory_correction != 1.0 else ""
    words = (
        f"needs about {needs / _GIB:.2f} of {has / _GIB:.2f} GiB{past}, "
        f"most of it in the stage '{found['peak_stage']}', where {largest['term']} take {largest['bytes'] / _GIB:.2f}"
    )
    if needs > work.memory_limit * has:
        raise Invalid(
            f"the run {words}",
            reason="MEMORY_SHORT",
            field="batch_size",
            remedy="ask for its plan, which says what to change, in order",
        )
    host_room(found, limit=work.memory_limit)
    work.reporter.event("log", level="info", message=words)
    work.reporter.expect(peak)
    train: dict[str, Any] = next(stage for stage in found["stages"] if stage["name"] == "train")
    return Estimate(peak=peak, step_seconds=train["seconds"] / work.spec.steps)


def host_room(found: Mapping[str, Any], *, limit: float) -> None:
    """Raise Invalid (HOST_MEMORY_SHORT) when a plan of a GPU's run asks for more than the share `limit` of its host's
    memory."""
    host = found.get("host")
    if host is None or int(host["total_bytes"]) <= limit * int(host["available_bytes"]):
        return
    largest = max(host["memory"], key=lambda term: int(term["bytes"]))
    needs, has = (host[name] / _GIB for name in ("total_bytes", "available_bytes"))
    raise Invalid(
        f"beside its GPUs the run needs about {needs:.2f} of the {has:.2f} GiB of its machine's memory, "
        f"where {largest['term']} take {largest['bytes'] / _GIB:.2f}",
        reason="HOST_MEMORY_SHORT",
        field="profile",
        remedy="ask for its plan, which says what to change",
    )
