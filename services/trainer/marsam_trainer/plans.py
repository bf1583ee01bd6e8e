"""What a run would need, asked of the run program itself: the trainer knows neither torch nor any network's shapes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from marsam.catalog.runs import RunSpec
from marsam_trainer.ground import Ground
from marsam_trainer.orders import Fault
from marsam_trainer.questions import Questions, fault_of
from marsam_trainer.settings import TrainerSettings

_MIB = 1 << 20

# What a plan depends on; everything else of a spec may differ without another one being made.
_MATTERS = ("base_digest", "dataset_digest", "method", "method_params", "batch_size", "resolution", "precision",
            "languages", "ema_decay", "profile", "optimiser", "accumulate", "gradient_checkpointing",
            "processes", "sharding", "regularisation_digest")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Memory in bytes by term; estimated wall time in `seconds`, 0 when unknown.

    `faults` are those that only the run program can see; a plan with faults has no numbers.
    """

    memory: Mapping[str, int]
    total_bytes: int
    available_bytes: int
    trainable_parameters: int
    quantised_share: float
    seconds: float
    fits: bool
    faults: tuple[Fault, ...] = ()

    def shortage(self) -> list[Fault]:
        """The fault of a run that does not fit, naming what takes most; empty when it fits."""
        if self.fits:
            return []
        largest = max(self.memory, key=lambda term: self.memory[term])
        return [
            Fault(
                field="batch_size",
                reason="MEMORY_SHORT",
                message=f"the run needs about {self.total_bytes // _MIB} MiB and its machine has "
                f"{self.available_bytes // _MIB}; {largest} take {self.memory[largest] // _MIB}",
                remedy="lower batch_size or resolution, or use method qlora",
            )
        ]


class Planner:
    """Asks the run program for plans, and remembers them by what they depend on."""

    def __init__(self, settings: TrainerSettings, ground: Ground) -> None:
        self._questions = Questions("plan", _MATTERS, _made, settings=settings, ground=ground)

    async def close(self) -> None:
        """Break off what is being asked."""
        await self._questions.close()

    def known(self, spec: RunSpec) -> Plan | None:
        """The plan of such a run, if one was made before."""
        made = self._questions.known(spec)
        return _for(spec, made) if made is not None else None

    async def plan(self, spec: RunSpec) -> Plan:
        """The plan of `spec`. Raises Unavailable (PLAN_FAILED), Deadline (PLAN_SLOW)."""
        return _for(spec, await self._questions.ask(spec))


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A plan and the steps that its seconds are of."""

    plan: Plan
    steps: int


def _for(spec: RunSpec, made: _Made) -> Plan:
    return replace(made.plan, seconds=made.plan.seconds * spec.steps / made.steps)


def _made(told: Mapping[str, Any], spec: RunSpec) -> _Made:
    return _Made(plan=_plan(told), steps=spec.steps)


def _plan(told: Mapping[str, Any]) -> Plan:
    faults = tuple(fault_of(fault, otherwise="method") for fault in told["faults"])
    if faults:
        return Plan(
            memory={}, total_bytes=0, available_bytes=0, trainable_parameters=0, quantised_share=0.0, seconds=0.0,
            fits=True, faults=faults,
        )  # fmt: skip
    return Plan(
        memory={str(entry["term"]): int(entry["bytes"]) for entry in told["memory"]},
        total_bytes=int(told["total_bytes"]),
        available_bytes=int(told["available_bytes"]),
        trainable_parameters=int(told["trainable_parameters"]),
        quantised_share=float(told["quantised_share"]),
        seconds=float(told["seconds"]),
        fits=bool(told["fits"]),
    )
