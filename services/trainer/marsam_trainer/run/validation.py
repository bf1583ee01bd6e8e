"""The loss on pictures that a run never learns from.

Every asking sees the same pictures, first captions, noise and times, so that two numbers differ by what was learnt
between them and by nothing else. Not weighted: the plain squared error, at times spread evenly over the law that the
run draws its own from.
"""

from collections.abc import Iterator

from marsam.diffusion.schedule import Schedule
from marsam_trainer.run import randomness
from marsam_trainer.run.feed import EMPTY, Batch, TrainingSet, make_batch

TIMES = 4
"""Times at which each picture is asked for."""

MOST = 64
"""Pictures that are asked for; of more, the first by their keys."""


class HeldOut:
    """Batches of the pictures held out, always the same."""

    def __init__(self, samples: TrainingSet, schedule: Schedule, *, seed: int, batch_size: int) -> None:
        self.samples = samples
        self._schedule = schedule
        self._seed = seed
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[Batch]:
        asked = [(row, i) for row in range(len(self.samples)) for i in range(TIMES)]
        shape, keys = self.samples.latents.shape[1:], self.samples.keys
        for start in range(0, len(asked), self._batch_size):
            some = asked[start : start + self._batch_size]
            yield make_batch(
                self.samples,
                self._schedule,
                rows=[row for row, _ in some],
                texts=[next(iter(self.samples.captions[row]), EMPTY) for row, _ in some],
                times=[self._schedule.draw((i + 0.5) / TIMES) for _, i in some],
                noise=[randomness.normal(shape, self._seed, "validation", i, keys[row]) for row, i in some],
            )
