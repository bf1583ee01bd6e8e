"""The numbers of a run, and how far it is."""

import math
from dataclasses import dataclass, field

from marsam.catalog.runs import Optimiser


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The numbers of a run: optimiser steps, peak learning rate, warm-up steps, min-SNR γ and EMA decay (None is
    off), and the optimiser. A step's batch is taken in `accumulate` parts one after the other. `keep_best` asks for the
    weights with the lowest loss on what is held out."""

    steps: int
    learning_rate: float
    warmup_steps: int
    seed: int
    snr_gamma: float | None
    ema_decay: float | None
    optimiser: Optimiser = "adamw"
    accumulate: int = 1
    keep_best: bool = False

    def rate(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        rest = max(1, self.steps - self.warmup_steps)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (step - self.warmup_steps) / rest))


@dataclass(kw_only=True)
class Position:
    """How far a run is: the coming step, the losses of all steps taken, and (step, loss on pictures held out). A loss
    that is not finite was not learnt from."""

    step: int = 0
    losses: list[float] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)

    def unlearnt(self) -> int:
        """How many steps in a row, up to now, gave no finite loss or gradient."""
        count = 0
        for loss in reversed(self.losses):
            if math.isfinite(loss):
                break
            count += 1
        return count
