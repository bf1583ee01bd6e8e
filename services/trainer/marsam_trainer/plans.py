"""What a run would need, asked of the run program itself: the trainer knows neither torch nor any network's shapes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from marsam.catalog.runs import RunSpec
from marsam_trainer.ground import Ground
from marsam_trainer.orders import Fault
from marsam_trainer.past_runs import ARITHMETIC, Correction
from marsam_trainer.questions import Questions, fault_of
from marsam_trainer.settings import TrainerSettings

# What a plan depends on; everything else of a spec may differ without another one being made.
_MATTERS = ("base", "base_digest", "dataset_digest", "method", "method_params", "batch_size", "resolution", "precision",
            "languages", "ema_decay", "publish", "profile", "optimiser", "accumulate", "gradient_checkpointing",
            "preview", "processes", "sharding", "regularisation_digest", "saves")  # fmt: skip


GOOD = 0.9
"""Share of the memory there is that a run may be expected to need without a word; up to the trainer's `memory_limit` it
is tight, above that refused."""


class Fit(Enum):
    """How a run suits its machine's memory."""

    GOOD = "good"
    TIGHT = "tight"
    SHORT = "short"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a run: bytes by term, bytes in the host's memory beside a GPU's, estimated seconds of all of it."""

    name: str
    memory: Mapping[str, int]
    total_bytes: int
    host_bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Remedy:
    """Fields to change beside those of the remedies before, and what the run then needs."""

    changes: Mapping[str, Any]
    total_bytes: int
    fits: bool
    message: str

    def words(self) -> str:
        """As one would type it, and what comes of it."""
        shown = " ".join(f"{name}={_shown(value)}" for name, value in self.changes.items() if name != "method_params")
        return f"{shown} ({self.message}) → {_gib(self.total_bytes)}"


_LESS = {
    "encoded data": ("resolution", "lower resolution, or give it fewer pictures"),
    "best weights": ("publish", "publish=last"),
    "checkpoint on its way": (
        "optimiser",
        "optimiser=adamw_8bit, or a checkpoint_every of all steps",
    ),
    "libraries": ("processes", "fewer processes on a machine"),
}
"""What makes a term of a host's memory smaller: the field to change, and how."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """What all processes of a run that share a machine keep in its memory beside their GPUs' at the largest, in bytes
    by term."""

    memory: Mapping[str, int]
    total_bytes: int
    available_bytes: int

    def fault(self) -> Fault:
        """That it is more than there is."""
        terms = sorted(self.memory.items(), key=lambda item: item[1], reverse=True)
        field, way = _LESS.get(terms[0][0], ("profile", "lower batch_size or resolution"))
        return Fault(
            field=field,
            reason="HOST_MEMORY_SHORT",
            message=f"beside its GPUs the run needs about {_gib(self.total_bytes)} of its machine's memory, which has "
            f"{_gib(self.available_bytes)}: {', '.join(f'{term} {_gib(size)}' for term, size in terms)}",
            remedy=f"{way}; or a profile with more memory",
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Memory in bytes by term, of the largest of the `stages`; estimated wall time in `seconds`, 0 when unknown.

    `total_bytes`, `seconds` and `remedies` are corrected by past runs, terms are arithmetic. `limit` is the share of
    `available_bytes` above which a run is refused. `faults` are those that only the run program can see; a plan with
    faults has no numbers.
    """

    memory: Mapping[str, int]
    total_bytes: int
    available_bytes: int
    trainable_parameters: int
    quantised_share: float
    seconds: float
    limit: float
    device: str = ""
    stages: tuple[Stage, ...] = ()
    peak_stage: str = ""
    remedies: tuple[Remedy, ...] = ()
    host: Host | None = None
    past: Correction = ARITHMETIC
    faults: tuple[Fault, ...] = ()

    @property
    def fit(self) -> Fit:
        """How the run suits its machine."""
        if self._host_short:
            return Fit.SHORT
        if self.total_bytes <= GOOD * self.available_bytes:
            return Fit.GOOD
        return Fit.TIGHT if self.total_bytes <= self.limit * self.available_bytes else Fit.SHORT

    @property
    def largest(self) -> str:
        """The term that takes most, of those that an order can change."""
        changeable = [term for term in self.memory if term != "libraries"]
        return max(changeable, key=lambda term: self.memory[term], default="")

    def corrected(self, past: Correction) -> "Plan":
        """The same by what past runs of its kind took."""
        stages = tuple(replace(stage, seconds=stage.seconds * past.time) for stage in self.stages)
        remedies = tuple(self._corrected(remedy, past) for remedy in self.remedies)
        total, seconds = round(self.total_bytes * past.memory), self.seconds * past.time
        return replace(self, total_bytes=total, seconds=seconds, stages=stages, remedies=remedies, past=past)

    def _corrected(self, remedy: Remedy, past: Correction) -> Remedy:
        total = round(remedy.total_bytes * past.memory)
        return replace(remedy, total_bytes=total, fits=total <= GOOD * self.available_bytes)

    def shortage(self) -> list[Fault]:
        """The fault of a run that cannot fit; empty when it may."""
        short = self.total_bytes > self.limit * self.available_bytes
        found = [self._memory_fault("MEMORY_SHORT")] if short else []
        return [*found, self.host.fault()] if self.host is not None and self._host_short else found

    @property
    def _host_short(self) -> bool:
        return self.host is not None and self.host.total_bytes > self.limit * self.host.available_bytes

    def tightness(self) -> list[Fault]:
        """What to know of a run that may fit, or not."""
        return [self._memory_fault("MEMORY_TIGHT")] if self.fit is Fit.TIGHT else []

    def _memory_fault(self, reason: str) -> Fault:
        """What takes most, and what to change in order."""
        terms = sorted(self.memory.items(), key=lambda item: item[1], reverse=True)
        parts = ", ".join(f"{term} {_gib(size)}" for term, size in terms)
        where = f" in its stage '{self.peak_stage}'" if self.peak_stage else ""
        past = f", by {self.past.runs} past runs" if self.past.runs else ""
        first = next((name for remedy in self.remedies for name in remedy.changes), "batch_size")
        return Fault(
            field=first,
            reason=reason,
            message=f"the run needs about {_gib(self.total_bytes)}{where}{past}, and its machine has "
            f"{_gib(self.available_bytes)}: {parts}",
            remedy="; then ".join(remedy.words() for remedy in self.remedies)
            or "lower batch_size or resolution, or use method qlora",
        )


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.1f} MiB"


class Planner:
    """Asks the run program for plans, and remembers them by what they depend on."""

    def __init__(self, settings: TrainerSettings, ground: Ground) -> None:
        self._limit = settings.memory_limit

        def together(spec: RunSpec) -> tuple[str, ...]:
            return ("--together", str(ground.room(spec.processes, spec.profile))) if spec.processes > 1 else ()

        self._questions = Questions("plan", _MATTERS, self._made, settings=settings, ground=ground, more=together)
        self._elsewhere = ground.elsewhere

    async def close(self) -> None:
        """Break off what is being asked."""
        await self._questions.close()

    async def plan(self, spec: RunSpec, *, hurry: bool = False) -> Plan | None:
        """The plan of `spec`. In a `hurry` None, where another machine would have to be had first and none was asked
        before.

        Raises Unavailable (PLAN_FAILED), Deadline (PLAN_SLOW).
        """
        made = self._questions.known(spec)
        if made is None:
            if hurry and self._elsewhere:
                return None
            made = await self._questions.ask(spec)
        return _for(spec, made)

    def _made(self, told: Mapping[str, Any], spec: RunSpec) -> "_Made":
        return _Made(plan=_plan(told, self._limit), steps=spec.steps, validations=spec.validations)


@dataclass(frozen=True, kw_only=True)
class _Made:
    """A plan, and of how many steps and askings of what is held out its seconds are."""

    plan: Plan
    steps: int
    validations: int


def _for(spec: RunSpec, made: _Made) -> Plan:
    """The plan of as many steps as `spec` has."""
    longer = spec.steps / made.steps
    # Stages that take longer the more steps there are.
    times = {"train": longer, "preview": longer, "validate": spec.validations / made.validations}
    stages = tuple(replace(stage, seconds=stage.seconds * times.get(stage.name, 1.0)) for stage in made.plan.stages)
    seconds = sum(stage.seconds for stage in stages) if stages else made.plan.seconds * longer
    return replace(made.plan, stages=stages, seconds=seconds)


def _plan(told: Mapping[str, Any], limit: float) -> Plan:
    faults = tuple(fault_of(fault, otherwise="method") for fault in told["faults"])
    if faults:
        return Plan(
            memory={}, total_bytes=0, available_bytes=0, trainable_parameters=0, quantised_share=0.0, seconds=0.0,
            limit=limit, faults=faults,
        )  # fmt: skip
    return Plan(
        memory=_terms(told),
        total_bytes=int(told["total_bytes"]),
        available_bytes=int(told["available_bytes"]),
        trainable_parameters=int(told["trainable_parameters"]),
        quantised_share=float(told["quantised_share"]),
        seconds=float(told["seconds"]),
        limit=limit,
        device=str(told.get("device", "")),
        stages=tuple(
            Stage(
                name=str(stage["name"]),
                memory=_terms(stage),
                total_bytes=int(stage["total_bytes"]),
                host_bytes=int(stage["host_bytes"]),
                seconds=float(stage["seconds"]),
            )
            for stage in told.get("stages", ())
        ),
        peak_stage=str(told.get("peak_stage", "")),
        host=_host(told["host"]) if "host" in told else None,
        remedies=tuple(
            Remedy(
                changes=dict(remedy["changes"]),
                total_bytes=int(remedy["total_bytes"]),
                fits=bool(remedy["fits"]),
                message=str(remedy["message"]),
            )
            for remedy in told.get("remedies", ())
        ),
    )


def _host(told: Mapping[str, Any]) -> Host:
    return Host(
        memory=_terms(told),
        total_bytes=int(told["total_bytes"]),
        available_bytes=int(told["available_bytes"]),
    )


def _terms(told: Mapping[str, Any]) -> dict[str, int]:
    return {str(entry["term"]): int(entry["bytes"]) for entry in told["memory"]}
