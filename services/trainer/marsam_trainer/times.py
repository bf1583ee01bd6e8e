"""The law of times that a run draws from: its base's own unless the order says otherwise."""

from collections.abc import Iterable
from typing import get_args

from marsam.catalog.runs import RunSpec, TimestepSampling
from marsam.core.errors import did_you_mean
from marsam.diffusion import schedule
from marsam.diffusion.schedule import Times
from marsam.diffusion.spec import BaseFacts, Default
from marsam_trainer.orders import Fault, Order

_FIELDS = ("timestep_sampling", "timestep_mean", "timestep_std", "shift")
_OF_NORMAL = ("timestep_mean", "timestep_std")
_SAMPLINGS: tuple[str, ...] = get_args(TimestepSampling)


def asked(of: Order | RunSpec) -> tuple[str, ...]:
    """The fields that ask for another law than the base's."""
    return tuple(name for name in _FIELDS if getattr(of, name) not in (None, getattr(RunSpec, name)))


def of(spec: RunSpec) -> Times:
    """The law that `spec` asks for."""
    return Times(
        uniform=spec.timestep_sampling == "uniform",
        mean=spec.timestep_mean,
        spread=spec.timestep_std,
        shift=spec.shift or None,
    )


def faults(order: Order, facts: BaseFacts | None) -> list[Fault]:
    """What is asked of times and cannot be; `facts` is None where the base is not known."""
    found, names = [], asked(order)
    if order.timestep_sampling not in _SAMPLINGS:
        found.append(_unknown(order.timestep_sampling))
    if facts is not None and facts.flow is None:
        found += _refused(names, "TIMES_FIXED", schedule.fixed(facts), schedule.FIXED_REMEDY)
    elif order.timestep_sampling == "uniform":
        shaped = [name for name in _OF_NORMAL if name in names]
        found += _refused(
            shaped, "TIMES_UNIFORM", "uniform times have no normal law", "leave it out, or ask for logit_normal times"
        )
    return found


def defaults(order: Order, facts: BaseFacts) -> dict[str, Default]:
    """What times are drawn by where the order does not say."""
    normal = "logit-normal times as of arXiv 2403.03206"
    if facts.flow is None:
        law = shift = normal = "the base's own: every step of its schedule as often"
    else:
        side = order.resolution or facts.default_side
        factor = facts.flow.factor(facts.tokens(side, side), facts.default_steps)
        law, shift = f"the base's own: {normal}", f"the base's own: {factor:.3g} at {side} px"
    origins = {"timestep_sampling": law, "timestep_mean": normal, "timestep_std": normal, "shift": shift}
    return {name: Default(getattr(RunSpec, name), origin) for name, origin in origins.items()}


def _unknown(given: str) -> Fault:
    return Fault(
        field="timestep_sampling",
        reason="UNKNOWN_TIMESTEP_SAMPLING",
        message=f"unknown timestep_sampling '{given}'",
        remedy=did_you_mean(given, [name for name in _SAMPLINGS if name]),
    )


def _refused(names: Iterable[str], reason: str, why: str, remedy: str) -> list[Fault]:
    return [Fault(field=name, reason=reason, message=f"{name}: {why}", remedy=remedy) for name in names]
