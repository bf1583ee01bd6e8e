"""What an attempt does between its steps, and the seconds of it that are still to come, by what the last of each took:
pictures held out are asked, previews drawn, and steps stand still for checkpoints."""

from typing import Literal

from marsam.catalog.runs import RunSpec

Aside = Literal["validation", "preview", "checkpoint"]


class Asides:
    """Nothing is known of what this attempt did not do yet: it counts for nothing."""

    def __init__(self, spec: RunSpec) -> None:
        self._spec = spec
        self._last: dict[Aside, tuple[int, float]] = {}

    def took(self, what: Aside, step: int, seconds: float) -> None:
        """Note what was done after `step` steps, and for how long."""
        self._last[what] = (step, seconds)

    def left(self, step: int) -> float:
        """Seconds of what is still to come after `step` steps, what is due just then and was not done yet with it."""
        return sum(seconds * self._coming(what, max(step, at + 1)) for what, (at, seconds) in self._last.items())

    def _coming(self, what: Aside, first: int) -> int:
        """How often something is due from step `first` to the last; at the last only pictures held out are asked."""
        spec = self._spec
        every = spec.preview.every if what == "preview" and spec.preview is not None else spec.checkpoint_every
        due = max(0, (spec.steps - 1) // every - (first - 1) // every)
        return due + (what == "validation" and first <= spec.steps)
