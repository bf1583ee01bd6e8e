"""A moving average over the steps of a run, whether every step is known or only some."""

TOLD = 0.9
"""What the loss that a run tells while it works keeps from step to step: it goes back over about ten."""


class MovingAverage:
    """An exponential moving average, corrected for its start: what is n steps old weighs `keep` to the n."""

    def __init__(self, keep: float = TOLD) -> None:
        self._keep = keep
        self._average = self._weight = 0.0
        self._step = 0

    def add(self, step: int, value: float) -> float:
        """Take the value of `step`, which stands for all steps since the last one too; return the average."""
        kept = self._keep ** max(1, step - self._step)
        self._step = step
        self._average = kept * self._average + (1.0 - kept) * value
        self._weight = kept * self._weight + (1.0 - kept)
        return self._average / self._weight
