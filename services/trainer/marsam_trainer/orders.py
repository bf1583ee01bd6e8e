"""What a caller asks to be trained, before anything is known of it, and the faults it may have."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp, log
from typing import Any

from marsam.catalog.runs import Preview, RunSpec
from marsam.core.errors import Invalid, MarsamError, Violation
from marsam.core.records import canonical, to_plain
from marsam_trainer.knobs import KNOBS

_START_LEFT = 0.05
"""How much of the start a moving average may still be at the end without a word."""

_LATER = frozenset(
    {
        "accept_licence",
        "allow_distilled",
        "optimiser",
        "accumulate",
        "gradient_checkpointing",
        "aspect_buckets",
        "masked_loss",
        "masked_loss_floor",
        "processes",
        "sharding",
        "publish",
        *("regularisation", "regularisation_digest", "regularisation_share", "regularisation_weight"),
        *("timestep_sampling", "timestep_mean", "timestep_std", "shift"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Order:
    """A run as asked for. None means "the default"; nothing is checked yet."""

    base: str
    dataset_version: str
    method: str
    method_params: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    resolution: int | None = None
    seed: int | None = None
    precision: str | None = None
    caption_dropout: float | None = None
    languages: tuple[str, ...] = ()
    checkpoint_every: int | None = None
    preview: Preview | None = None
    snr_gamma: float | None = None
    ema_decay: float | None = None
    warmup_steps: int | None = None
    output_model_id: str = ""
    display_name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    base_digest: str = ""
    dataset_digest: str = ""
    profile: str = ""
    accept_licence: str = ""
    allow_distilled: bool = False
    optimiser: str = ""
    accumulate: int | None = None
    gradient_checkpointing: bool | None = None
    processes: int | None = None
    sharding: str = ""
    publish: str = ""
    regularisation: str = ""
    regularisation_digest: str = ""
    regularisation_share: float | None = None
    regularisation_weight: float | None = None
    aspect_buckets: bool | None = None
    masked_loss: bool | None = None
    masked_loss_floor: float | None = None
    timestep_sampling: str = ""
    timestep_mean: float | None = None
    timestep_std: float | None = None
    shift: float | None = None


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong with an order. `field` is a path below `spec`."""

    field: str
    reason: str
    message: str
    remedy: str = ""


def content_of(order: Order) -> bytes:
    """What is asked, as a request id is compared by; b"" for numbers that no run was ever made of.

    What came to orders later is left out where it is not said, so that an order from before is the same. A floor of
    zero is said.
    """
    plain = to_plain(order)
    try:
        said = {name for name, value in plain.items() if value or isinstance(value, float)}
        return canonical({name: value for name, value in plain.items() if name in said or name not in _LATER})
    except Invalid:  # NaN and infinities
        return b""


def faults_of(error: MarsamError, *, field: str) -> list[Fault]:
    """The faults that `error` states, those without a place of their own at `field`."""
    if isinstance(error, Invalid) and len(error.violations) > 1:
        return [Fault(field=_below(v.field, field), reason=v.reason, message=v.message) for v in error.violations]
    return [Fault(field=field, reason=error.reason, message=error.message, remedy=error.remedy)]


def as_error(faults: list[Fault]) -> Invalid:
    """One error that carries them all."""
    first = faults[0]
    message = first.message if len(faults) == 1 else f"the run has {len(faults)} faults; first: {first.message}"
    return Invalid(
        message,
        reason=first.reason,
        field=f"spec.{first.field}",
        remedy=first.remedy,
        violations=[
            Violation(
                field=f"spec.{fault.field}",
                message=f"{fault.message} ({fault.remedy})" if fault.remedy else fault.message,
                reason=fault.reason,
            )
            for fault in faults
        ],
    )


def default_steps(images: int) -> int:
    """Steps for a set of so many pictures: 800 for 20, 3000 for 500, a straight line in the logarithms, in hundreds."""
    slope = log(3000 / 800) / log(500 / 20)
    steps = 800 * exp(slope * log(max(images, 1) / 20))
    return min(10_000, max(100, round(steps / 100) * 100))


def range_faults(order: Order) -> list[Fault]:
    """Numbers outside of what they can mean."""
    given = ((knob, getattr(order, knob.name)) for knob in KNOBS if knob.holds is not None)
    return [
        Fault(
            field=knob.name,
            reason=f"{knob.name.upper()}_OUT_OF_RANGE",
            message=f"{knob.name} must be {knob.rule}, got {value}",
        )
        for knob, value in given
        if value is not None and knob.holds is not None and not knob.holds(value)
    ]


def _below(path: str, otherwise: str) -> str:
    return path if path.startswith("method_params.") else otherwise


def average_warnings(spec: RunSpec) -> tuple[Fault, ...]:
    """That a run is too short for its moving average, which then still is the start in part: decay^steps of it."""
    left = (spec.ema_decay or 0.0) ** spec.steps
    if left <= _START_LEFT:
        return ()
    return (
        Fault(
            field="ema_decay",
            reason="AVERAGE_SLOW",
            message=f"after {spec.steps} steps a moving average of {spec.ema_decay:g} still is the start by {left:.0%}",
            remedy=f"use {_START_LEFT ** (1 / spec.steps):.2g} or less, take more steps, or leave it out",
        ),
    )
