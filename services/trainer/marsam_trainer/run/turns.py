"""Whose turn it is: the samples of each step, as functions of the step alone.

Every epoch shows every sample once, in an order of its own that hangs on the seed and the samples' keys.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from itertools import islice

from marsam.diffusion.buckets import dealt
from marsam_trainer.run import randomness

Turns = Callable[[int], tuple[int, ...]]
"""The rows of the samples of a step, counted from 0."""


def in_a_row(keys: Sequence[str], *, seed: int, batch_size: int) -> Turns:
    """Epoch after epoch without a gap: every batch is full, and may straddle two epochs."""

    @lru_cache(maxsize=2)
    def order(epoch: int) -> Sequence[int]:
        return _shuffled(range(len(keys)), keys, seed, epoch)

    def rows(step: int) -> tuple[int, ...]:
        start, count = step * batch_size, len(keys)
        return tuple(order((start + i) // count)[(start + i) % count] for i in range(batch_size))

    return rows


def by_size(keys: Sequence[str], sizes: Sequence[Hashable], *, seed: int, batch_size: int) -> Turns:
    """Batches of one size each. In an epoch the samples of a size are dealt to as few batches as hold them, as even as
    can be, and the batches of all sizes are shuffled; so batches differ in length, and none straddles two epochs."""
    groups: dict[Hashable, list[int]] = {}
    for row, size in enumerate(sizes):
        groups.setdefault(size, []).append(row)

    @lru_cache(maxsize=2)
    def order(epoch: int) -> Sequence[tuple[int, ...]]:
        batches = []
        for group in groups.values():
            rows = _shuffled(group, keys, seed, epoch)
            left = iter(rows)
            batches += [tuple(islice(left, length)) for length in dealt(len(rows), batch_size)]
        return sorted(batches, key=lambda rows: (randomness.bits(seed, "turn", epoch, keys[rows[0]]), rows[0]))

    count = len(order(0))
    return lambda step: order(step // count)[step % count]


def _shuffled(rows: Iterable[int], keys: Sequence[str], seed: int, epoch: int) -> list[int]:
    return sorted(rows, key=lambda row: (randomness.bits(seed, "order", epoch, keys[row]), row))
