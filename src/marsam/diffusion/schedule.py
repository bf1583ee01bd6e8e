"""How noise grows with time, as plain numbers: the tables of discrete schedules, and the straight line of flows.
Standard library only.

Sources: linear and scaled-linear betas as in DDPM and Stable Diffusion, squared cosine (arXiv 2102.09672), zero
terminal SNR (arXiv 2305.08891, algorithm 1); for flows, logit-normal times and their shift towards noise (arXiv
2403.03206, sections 3.1 and 5.3.2).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Protocol

from marsam.core.errors import Invalid

if TYPE_CHECKING:
    from marsam.diffusion.spec import BaseFacts

_NORMAL = NormalDist()
_TINY = 1e-9


class Schedule(Protocol):
    """What training needs to know of time. `t` is in (0, 1], 1 is pure noise."""

    def draw(self, uniform: float) -> float:
        """The time that a uniform number in [0, 1) stands for, under the law that the base is trained with."""

    def levels(self, t: float) -> tuple[float, float]:
        """(signal, noise) at time t: noisy = signal·clean + noise·noise."""


@dataclass(frozen=True, slots=True)
class Table:
    """A discrete schedule of `len(signal)` training steps: `signal[k]` is √ᾱ and `noise[k]` is √(1-ᾱ) at step k,
    whose time is (k + 1) / steps. Steps are drawn uniformly."""

    signal: tuple[float, ...]
    noise: tuple[float, ...]

    @property
    def steps(self) -> int:
        """Number of training steps."""
        return len(self.signal)

    def time(self, step: float) -> float:
        """The time in (0, 1] of a training step; fractional steps are allowed."""
        return (step + 1) / self.steps

    def draw(self, uniform: float) -> float:
        """See `Schedule.draw`."""
        return self.time(min(self.steps - 1, int(uniform * self.steps)))

    def levels(self, t: float) -> tuple[float, float]:
        """See `Schedule.levels`; `t` is the time of a training step."""
        step = round(t * self.steps) - 1
        return self.signal[step], self.noise[step]


@dataclass(frozen=True, slots=True)
class Line:
    """A flow: noisy = (1-t)·clean + t·noise. Times are logit-normal (of the normal law with `mean` and `spread`), or
    `uniform`, then moved by `shifted`."""

    shift: float = 1.0
    mean: float = 0.0
    spread: float = 1.0
    uniform: bool = False

    def draw(self, uniform: float) -> float:
        """See `Schedule.draw`."""
        if self.uniform:
            return shifted(max(uniform, _TINY), self.shift)
        normal = self.mean + self.spread * _NORMAL.inv_cdf(min(max(uniform, _TINY), 1.0 - _TINY))
        return shifted(1.0 / (1.0 + math.exp(-normal)), self.shift)

    def levels(self, t: float) -> tuple[float, float]:
        """See `Schedule.levels`."""
        return 1.0 - t, t


def shifted(t: float, shift: float) -> float:
    """A time moved towards noise: s·t / (1 + (s-1)·t) (arXiv 2403.03206, equation 23)."""
    return shift * t / (1.0 + (shift - 1.0) * t)


@dataclass(frozen=True, kw_only=True, slots=True)
class Flow:
    """What a flow base's scheduler says of time.

    `shift` holds for every size, unless `mu` gives one by (tokens of the picture, steps of the drawing); then the shift
    is e^mu when `exponential`, else mu itself. `even`: a drawing of n steps begins from n even times 1 … 1/n, not from
    the scheduler's own.
    """

    shift: float = 1.0
    mu: Callable[[int, int], float] | None = None
    exponential: bool = True
    even: bool = False

    def factor(self, tokens: int, steps: int) -> float:
        """The shift for a picture of so many tokens, drawn in so many steps."""
        if self.mu is None:
            return self.shift
        value = self.mu(tokens, steps)
        return math.exp(value) if self.exponential else value


@dataclass(frozen=True, kw_only=True, slots=True)
class Times:
    """What training asks of a flow's times: see `Line`; `shift` is the base's own when None."""

    uniform: bool = False
    mean: float = 0.0
    spread: float = 1.0
    shift: float | None = None


BASES_OWN = Times()
"""As bases are trained by their makers."""

FIXED_REMEDY = "leave it out: it is for bases that predict a flow"


def line_through(config: Mapping[str, Any]) -> Callable[[int, int], float]:
    """mu as a straight line over the number of tokens, as a flow scheduler's configuration gives it."""
    low, high = int(config.get("base_image_seq_len", 256)), int(config.get("max_image_seq_len", 4096))
    base, most = float(config.get("base_shift", 0.5)), float(config.get("max_shift", 1.15))
    slope = (most - base) / (high - low)
    return lambda tokens, steps: base + slope * (tokens - low)


def flow(config: Mapping[str, Any], *, even: bool) -> Flow:
    """What the configuration of a FlowMatchEulerDiscreteScheduler says of time: one shift, or one by the number of
    tokens. `even` is the pipeline's doing (see `Flow`)."""
    if not config.get("use_dynamic_shifting", False):
        return Flow(shift=float(config.get("shift", 1.0)), even=even)
    exponential = config.get("time_shift_type", "exponential") == "exponential"
    return Flow(mu=line_through(config), exponential=exponential, even=even)


def of(facts: "BaseFacts", width: int, height: int, times: Times = BASES_OWN) -> Schedule:
    """The schedule that a base is trained with on pictures of a size in pixels. Raises `Invalid` (TIMES_FIXED) when
    `times` asks for another law of a base that has none to choose."""
    if facts.flow is not None:
        shift = times.shift or facts.flow.factor(facts.tokens(width, height), facts.default_steps)
        return Line(shift, times.mean, times.spread, times.uniform)
    if times != BASES_OWN:
        raise Invalid(fixed(facts), field="timestep_sampling", reason="TIMES_FIXED", remedy=FIXED_REMEDY)
    return from_config(facts.scheduler)


def fixed(facts: "BaseFacts") -> str:
    """Why there is no law of times to choose for a base without a flow."""
    return f"this base predicts {facts.objective}: it learns every step of its schedule as often, and has no shift"


def by_cells(facts: "BaseFacts", times: Times = BASES_OWN) -> Callable[[int, int], Schedule]:
    """`of`, asked by the height and width of the latents in cells; each schedule is made once."""
    factor = facts.latent_factor
    return cache(lambda height, width: of(facts, width * factor, height * factor, times))


def from_config(config: Mapping[str, Any]) -> Table:
    """Build the table that a diffusers scheduler configuration describes. Raises `Invalid` for a beta schedule that is
    not known."""
    betas = _betas(config)
    product = 1.0
    products = [product := product * (1.0 - beta) for beta in betas]
    signal = [math.sqrt(value) for value in products]
    if config.get("rescale_betas_zero_snr", False):
        first, last = signal[0], signal[-1]
        signal = [(value - last) * first / (first - last) for value in signal]
    noise = [math.sqrt(max(0.0, 1.0 - value * value)) for value in signal]
    return Table(tuple(signal), tuple(noise))


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
