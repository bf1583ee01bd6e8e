"""Noise schedules read from a base's scheduler configuration, as plain numbers. Standard library only.

`Schedule.signal[k]` and `Schedule.noise[k]` are √ᾱ and √(1-ᾱ) at training step k. Sources: linear and scaled-linear
betas as in DDPM and Stable Diffusion, squared cosine (arXiv 2102.09672), zero terminal SNR (arXiv 2305.08891,
algorithm 1).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marsam.core.errors import Invalid


@dataclass(frozen=True, slots=True)
class Schedule:
    """A discrete schedule of `len(signal)` training steps; step k is the time t = (k + 1) / steps."""

    signal: tuple[float, ...]
    noise: tuple[float, ...]

    @property
    def steps(self) -> int:
        """Number of training steps."""
        return len(self.signal)

    def time(self, step: float) -> float:
        """The time in (0, 1] of a training step; fractional steps are allowed."""
        return (step + 1) / self.steps


def from_config(config: Mapping[str, Any]) -> Schedule:
    """Build the schedule that a diffusers scheduler configuration describes. Raises `Invalid` for a beta schedule
    that is not known."""
    betas = _betas(config)
    product = 1.0
    products = [product := product * (1.0 - beta) for beta in betas]
    signal = [math.sqrt(value) for value in products]
    if config.get("rescale_betas_zero_snr", False):
        first, last = signal[0], signal[-1]
        signal = [(value - last) * first / (first - last) for value in signal]
    noise = [math.sqrt(max(0.0, 1.0 - value * value)) for value in signal]
    return Schedule(tuple(signal), tuple(noise))


def _betas(config: Mapping[str, Any]) -> list[float]:
    trained = config.get("trained_betas")
    if trained:
        return [float(beta) for beta in trained]
    steps = int(config.get("num_train_timesteps", 1000))
    low, high = float(config.get("beta_start", 0.0001)), float(config.get("beta_end", 0.02))
    kind = config.get("beta_schedule", "linear")
    if kind == "linear":
        return _spread(low, high, steps)
    if kind == "scaled_linear":
        return [root * root for root in _spread(math.sqrt(low), math.sqrt(high), steps)]
    if kind == "squaredcos_cap_v2":
        return [min(1.0 - _cosine((k + 1) / steps) / _cosine(k / steps), 0.999) for k in range(steps)]
    raise Invalid(
        f"beta schedule {kind!r} is not known",
        field="scheduler.beta_schedule",
        reason="SCHEDULE_UNKNOWN",
        remedy="use linear, scaled_linear or squaredcos_cap_v2",
    )


def _spread(low: float, high: float, count: int) -> list[float]:
    return [low + (high - low) * k / max(1, count - 1) for k in range(count)]


def _cosine(time: float) -> float:
    return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
