"""The loss on pictures that a run never learns from.

Every asking sees the same pictures, first captions, noise and times, so that two numbers differ by what was learnt
between them and by nothing else. Not weighted by time: the squared error, where masks let it count if the run learns by
masks, at times spread evenly over the base's own law, whatever law the run draws its own from: so that runs of one base
can be compared.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

from marsam_trainer.run import randomness
from marsam_trainer.run.feed import EMPTY, Batch, ScheduleOf, TrainingSet, make_batch

TIMES = 4
"""Times at which each picture is asked for."""

MOST = 64
"""Pictures that are asked for; of more, the first by their keys."""


class HeldOut:
    """Batches of the pictures held out, always the same, each of one size."""

    def __init__(self, samples: TrainingSet, schedule: ScheduleOf, *, seed: int, batch_size: int) -> None:
        self.samples = samples
        self._schedule = schedule
        self._seed = seed
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[Batch]:
        rows = sorted(range(len(self.samples)), key=self.samples.shape)
        for shape, of_one_size in groupby(rows, self.samples.shape):
            asked = [(row, i) for row in of_one_size for i in range(TIMES)]
            for start in range(0, len(asked), self._batch_size):
                yield self._batch(shape, asked[start : start + self._batch_size])

    def _batch(self, shape: tuple[int, int, int], asked: Sequence[tuple[int, int]]) -> Batch:
        schedule, keys = self._schedule(*shape[1:]), self.samples.keys
        return make_batch(
            self.samples,
            schedule,
            rows=[row for row, _ in asked],
            texts=[next(iter(self.samples.captions[row]), EMPTY) for row, _ in asked],
            times=[schedule.draw((i + 0.5) / TIMES) for _, i in asked],
            noise=[randomness.normal(shape, self._seed, "validation", i, keys[row]) for row, i in asked],
        )
