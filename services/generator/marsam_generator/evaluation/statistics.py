"""The statistics of an evaluation: intervals for rates of clustered pictures, and corrections for a judge that errs.

The unit is the *prompt*: pictures of one prompt resemble each other, so they count for less than as many independent
ones. Single rates get a Wilson interval over the effective number of pictures; differences between two models get a
bootstrap that resamples prompts and keeps both models' pictures of a prompt together; a known error rate of the judge
is taken out with the Rogan–Gladen estimator, whose own uncertainty is drawn inside the bootstrap.

Sources: E. B. Wilson, JASA 22 (1927) 209; R. G. Newcombe, Statistics in Medicine 17 (1998) 857 and 2635;
W. J. Rogan and B. Gladen, American Journal of Epidemiology 107 (1978) 71; L. Kish, Survey Sampling (1965), on the
design effect.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from marsam.core.errors import Invalid

Floats = NDArray[np.float64]

CONFIDENCE = 0.95

ASSUMED_CORRELATION = 0.5
"""Between pictures of one prompt, where the pictures at hand cannot tell it."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A closed interval; rates lie in [0, 1], differences of rates in [-1, 1]."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise Invalid(f"an interval needs low ≤ high, got {self.low} and {self.high}")

    @property
    def width(self) -> float:
        return self.high - self.low

    def union(self, other: "Interval") -> "Interval":
        """The smallest interval that holds both."""
        return Interval(low=min(self.low, other.low), high=max(self.high, other.high))


def _z(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise Invalid(f"a confidence lies between 0 and 1, got {confidence}")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(successes: float, n: float, *, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's score interval for a proportion.

    `n` may be fractional: it is the effective number of independent trials, and `successes / n` the observed rate.
    """
    if math.isclose(successes, n, rel_tol=1e-9):
        successes = n
    if n <= 0 or not 0 <= successes <= n:
        raise Invalid(f"a proportion needs 0 ≤ successes ≤ n and n > 0, got {successes} of {n}")
    z = _z(confidence)
    rate = successes / n
    centre = rate + z * z / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # At the two ends the exact limit is the rate itself; rounding must not leave it outside its own interval.
    low = 0.0 if successes == 0 else max(0.0, (centre - half) / scale)
    high = 1.0 if successes == n else min(1.0, (centre + half) / scale)
    return Interval(low=low, high=high)


def by_prompt(values: Floats, cluster: NDArray[np.intp], prompts: int) -> Floats:
    """Sum the pictures' `values` by the number of their prompt, counted from 0: one entry a prompt."""
    return np.bincount(cluster, weights=values, minlength=prompts).astype(np.float64)


def effective_n(sums: Floats, sizes: Floats, *, variance: float | None = None) -> float:
    """How many independent pictures the clustered ones are worth, at most as many as there are.

    `sums` (of the values of a prompt's pictures: successes, or differences of pairs) and `sizes` have one entry a
    prompt; `variance` is that of one picture's value, and p (1 - p) for yes/no values when not given. The design effect
    is the variance of the mean as estimated from the spread between prompts (ratio estimator) over the variance of as
    many independent pictures, and is never below 1. Where every picture agrees there is no spread to estimate it from;
    then a correlation of `ASSUMED_CORRELATION` between the pictures of a prompt is taken for granted.
    """
    total, prompts = float(sizes.sum()), len(sizes)
    if total <= 0:
        raise Invalid("a rate needs at least one picture")
    mean = float(sums.sum()) / total
    independent = (mean * (1 - mean) if variance is None else variance) / total
    if independent <= 1e-12 or prompts == 1:
        # Kish: the mean cluster size seen by a picture, not by a prompt.
        size = float((sizes**2).sum()) / total
        return total / (1 + (size - 1) * ASSUMED_CORRELATION)
    clustered = float(((sums - mean * sizes) ** 2).sum()) / total**2 * prompts / (prompts - 1)
    return total / max(1.0, clustered / independent)


def clustered_wilson(successes: Floats, sizes: Floats, *, confidence: float = CONFIDENCE) -> Interval:
    """Wilson's interval over the effective number of pictures (see `effective_n`)."""
    n = effective_n(successes, sizes)
    return wilson(float(successes.sum()) / float(sizes.sum()) * n, n, confidence=confidence)


def newcombe_paired(
    both: float, first: float, second: float, neither: float, *, confidence: float = CONFIDENCE, n: float | None = None
) -> Interval:
    """Newcombe's hybrid score interval (his method 10) for the difference p_first - p_second of paired proportions.

    The four numbers count pairs in which both, only the first, only the second, or neither succeeded. `n`, where given,
    is the effective number of independent pairs: the same proportions with less weight.
    """
    pairs = both + first + second + neither
    if pairs <= 0 or min(both, first, second, neither) < 0:
        raise Invalid("a paired difference needs non-negative counts and at least one pair")
    scale = 1.0 if n is None else n / pairs
    e, f, g, h = both * scale, first * scale, second * scale, neither * scale
    total = pairs * scale
    one, two = (e + f) / total, (e + g) / total
    a, b = wilson(e + f, total, confidence=confidence), wilson(e + g, total, confidence=confidence)
    spread = (e + f) * (g + h) * (e + g) * (f + h)
    phi = 0.0
    if spread > 0:
        product = e * h - f * g
        phi = (max(product - total / 2, 0.0) if product > 0 else product) / math.sqrt(spread)

    def arm(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))

    difference = one - two
    return Interval(
        low=max(-1.0, difference - arm(one - a.low, b.high - two)),
        high=min(1.0, difference + arm(a.high - one, two - b.low)),
    )


def clustered_newcombe(
    first: Floats, second: Floats, cluster: NDArray[np.intp], *, confidence: float = CONFIDENCE
) -> Interval:
    """Newcombe's paired interval for mean(first) - mean(second) over the effective number of pairs.

    `first` and `second` hold 0 or 1 a pair, `cluster` the number of the pair's prompt, counted from 0.
    """
    difference = first - second
    prompts = int(cluster.max()) + 1
    sizes = by_prompt(np.ones_like(first), cluster, prompts)
    n = effective_n(by_prompt(difference, cluster, prompts), sizes, variance=float(difference.var()))
    both = float((first * second).sum())
    return newcombe_paired(
        both,
        float(first.sum()) - both,
        float(second.sum()) - both,
        float(((1 - first) * (1 - second)).sum()),
        confidence=confidence,
        n=n,
    )


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """A judge's yes/no answers beside the truth: how often it saw what was there, and what was not.

    The counts may be fractional (averaged over several questions).
    """

    hit: float
    miss: float
    false_alarm: float
    correct_rejection: float

    def __post_init__(self) -> None:
        if min(self.hit, self.miss, self.false_alarm, self.correct_rejection) < 0:
            raise Invalid("an agreement table holds no negative counts")

    @property
    def positives(self) -> float:
        return self.hit + self.miss

    @property
    def negatives(self) -> float:
        return self.false_alarm + self.correct_rejection

    @property
    def sensitivity(self) -> float:
        return self.hit / self.positives if self.positives else float("nan")

    @property
    def specificity(self) -> float:
        return self.correct_rejection / self.negatives if self.negatives else float("nan")

    def usable(self, *, at_least: int = 10, youden: float = 0.6) -> bool:
        """Whether the table can correct a rate: enough cases of both kinds, and a judge well above guessing."""
        if min(self.positives, self.negatives) < at_least:
            return False
        return self.sensitivity + self.specificity - 1 >= youden

    def draws(self, count: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """`count` plausible (sensitivity, specificity) pairs, from their posteriors under Jeffreys' prior."""
        return (
            rng.beta(self.hit + 0.5, self.miss + 0.5, count),
            rng.beta(self.correct_rejection + 0.5, self.false_alarm + 0.5, count),
        )


def rogan_gladen(observed: Floats | float, sensitivity: Floats | float, specificity: Floats | float) -> Floats:
    """The true rate behind an observed one, clipped to [0, 1].

    Where a drawn judge is no better than guessing (Se + Sp ≤ 1) nothing can be concluded, and the observed rate is
    returned.
    """
    seen, se, sp = np.broadcast_arrays(
        np.asarray(observed, dtype=np.float64),
        np.asarray(sensitivity, dtype=np.float64),
        np.asarray(specificity, dtype=np.float64),
    )
    youden = se + sp - 1
    informative = youden > 1e-9
    corrected = np.where(informative, (seen + sp - 1) / np.where(informative, youden, 1.0), seen)
    return np.clip(corrected, 0.0, 1.0)


@lru_cache(maxsize=8)
def _weights(seed: int, draws: int, prompts: int) -> Floats:
    rng = np.random.default_rng([seed, prompts])
    weights = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=draws).astype(np.float64)
    weights.flags.writeable = False
    return weights


@dataclass(frozen=True, kw_only=True)
class PromptBootstrap:
    """Resamples prompts with replacement. One seed gives one set of resamples, shared by every model and measure,
    which is what keeps their differences paired.
    """

    seed: int
    draws: int = 10_000

    def __post_init__(self) -> None:
        if self.draws < 100:
            raise Invalid(f"a bootstrap needs at least 100 draws, got {self.draws}")

    def weights(self, prompts: int) -> Floats:
        """Draws × prompts: how often each prompt was drawn. Read-only."""
        return _weights(self.seed, self.draws, prompts)

    def rates(self, successes: Floats, sizes: Floats) -> Floats:
        """The rate in each resample. `successes` and `sizes`: one entry a prompt, sizes above zero."""
        if len(sizes) == 0 or float(sizes.min()) <= 0:
            raise Invalid("every prompt of a bootstrap needs at least one picture")
        weights = self.weights(len(sizes))
        return np.asarray((weights @ successes) / (weights @ sizes), dtype=np.float64)

    def posterior(self, successes: Floats, sizes: Floats) -> Floats:
        """Plausible true rates under Jeffreys' prior and the effective number of pictures.

        Unlike resampled rates they keep a spread where all pictures agree.
        """
        n = effective_n(successes, sizes)
        rate = float(successes.sum()) / float(sizes.sum())
        rng = np.random.default_rng([self.seed, 0xBE7A])
        return rng.beta(rate * n + 0.5, (1 - rate) * n + 0.5, self.draws)

    def error_rates(self, agreement: Agreement) -> tuple[Floats, Floats]:
        """One drawn (sensitivity, specificity) a resample; the same for both models of a difference."""
        return agreement.draws(self.draws, np.random.default_rng([self.seed, 0x5E5B]))


def percentile_interval(draws: Floats, *, confidence: float = CONFIDENCE) -> Interval:
    """The central `confidence` of bootstrap draws."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(low=float(low), high=float(high))
