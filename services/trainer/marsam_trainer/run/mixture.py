"""Steps from two training sets: what is to be learnt, and what must not be forgotten meanwhile."""

from dataclasses import replace
from fractions import Fraction

from marsam_trainer.run.feed import Batch, Feed

_FINEST = 1_000_000
"""A share is taken as a fraction with a denominator up to this, so that counting steps never rounds."""


class Mixture:
    """Batches by step: `share` of the steps, spread evenly, are `apart`'s and weigh `weight` times as much, the others
    `feed`'s.

    Each feed counts its own steps, so each goes through all of its own samples epoch by epoch.
    """

    def __init__(self, feed: Feed, apart: Feed, *, share: float, weight: float) -> None:
        self.samples = feed.samples
        self.apart = apart
        self._feed = feed
        self._share = Fraction(share).limit_denominator(_FINEST)
        self._weight = weight

    def batch(self, step: int) -> Batch:
        """The input of step `step`, counted from 0."""
        before = self._taken(step)
        if self._taken(step + 1) > before:
            batch = self.apart.batch(before)
            return replace(batch, weight=batch.weight * self._weight)
        return self._feed.batch(step - before)

    def _taken(self, steps: int) -> int:
        """How many of the first `steps` steps are `apart`'s."""
        return steps * self._share.numerator // self._share.denominator
