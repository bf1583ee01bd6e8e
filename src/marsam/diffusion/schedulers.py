"""The schedulers that pictures are drawn with: diffusers' own classes, one fresh object for each picture."""

from collections.abc import Mapping
from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)

from marsam.core.errors import unknown_name
from marsam.diffusion.spec import BaseFacts

_TABLES: Mapping[str, Any] = {
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "euler_a": EulerAncestralDiscreteScheduler,
}
_FLOWS: Mapping[str, Any] = {"dpm++": DPMSolverMultistepScheduler, "euler": FlowMatchEulerDiscreteScheduler}
SCHEDULERS = tuple(sorted({*_TABLES, *_FLOWS}))
"""Every scheduler there is; a base takes those of its objective (`schedulers`)."""


def schedulers(facts: BaseFacts) -> tuple[str, ...]:
    """The schedulers that a base can be drawn with, its own first."""
    return tuple(sorted(_classes(facts), key=lambda name: (name != own_scheduler(facts), name)))


def own_scheduler(facts: BaseFacts) -> str:
    """The scheduler that the base's own configuration names, or the nearest that there is."""
    named = str(facts.scheduler.get("_class_name"))
    found = [name for name, cls in _classes(facts).items() if cls.__name__ == named]
    return found[0] if found else ("ddim" if facts.flow is None else "euler")


def _classes(facts: BaseFacts) -> Mapping[str, Any]:
    return _TABLES if facts.flow is None else _FLOWS


def make_scheduler(facts: BaseFacts, name: str, steps: int, *, width: int, height: int) -> Any:
    """A fresh diffusers scheduler set to `steps`, configured by the base itself (prediction type, zero terminal SNR,
    spacing, shift for a picture of this size in pixels)."""
    classes = _classes(facts)
    name = name or own_scheduler(facts)
    if name not in classes:
        raise unknown_name("scheduler", name, schedulers(facts), field="scheduler")
    config = dict(facts.scheduler)
    if facts.flow is None:
        scheduler = classes[name].from_config(config)
        scheduler.set_timesteps(steps)
        return scheduler
    tokens = facts.tokens(width, height)
    if name == "dpm++":
        own = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
        scheduler = classes[name].from_config({**config, **own, "flow_shift": facts.flow.factor(tokens, steps)})
        scheduler.set_timesteps(steps)
        return scheduler
    # A base whose own scheduler is of another class calls its shift otherwise.
    config["shift"] = facts.flow.shift
    if steps == 1:
        # A single step ends at the picture: there is no last time before it to be moved, and 0/0 would come of it.
        config["shift_terminal"] = None
    scheduler = classes[name].from_config(config)
    sigmas = [1.0 - k / steps for k in range(steps)] if facts.flow.even else None
    scheduler.set_timesteps(steps, sigmas=sigmas, mu=facts.flow.mu(tokens, steps) if facts.flow.mu else None)
    return scheduler
