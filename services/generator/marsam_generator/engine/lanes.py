"""Lanes: how the rows of one tick are spread over the cores, and how a row that fails is told from its neighbours.

On a GPU there is one lane. On a CPU there are as many as cores, each a thread with one intra-operator thread: at the
sizes that a CPU can serve, two independent half batches are as fast as one batch with two OpenMP threads, and they do
not wait for each other at every operator when the machine is busy. PyTorch leaves the interpreter lock inside its
operators, so lanes truly run side by side.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from marsam.diffusion.spec import Conditioning


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a forward: `noisy` (1, C, h, w), time `t`, conditioning of one row, adapter key → weight."""

    noisy: torch.Tensor
    t: float
    cond: Conditioning
    adapters: Mapping[str, float]


Forward = Callable[[Sequence[Row]], torch.Tensor]
"""Rows → (rows, C, h, w)."""


class Lanes:
    """`count` threads that share the rows of a tick. With one lane everything runs on the caller's thread."""

    def __init__(self, count: int) -> None:
        self.count = max(1, count)
        self._pool: ThreadPoolExecutor | None = None
        if self.count > 1:
            self._pool = ThreadPoolExecutor(
                self.count, thread_name_prefix="marsam-lane", initializer=torch.set_num_threads, initargs=(1,)
            )

    def run(
        self,
        rows: Sequence[Row],
        forward: Forward,
        *,
        most: int | None = None,
        failed: Callable[[int, Exception], None] = lambda rows, error: None,
    ) -> list[torch.Tensor | Exception]:
        """Put every row through `forward`, at most `most` at once; per row its prediction (1, C, h, w), or the
        exception that it alone causes. `failed` is told of every batch that raised, on the lane's thread.
        """
        parts = self._parts(rows, most)
        if self._pool is None or (len(parts) == 1 and most is None):
            return [result for part in parts for result in _isolated(part, forward, failed)]
        waiting = [self._pool.submit(_isolated, part, forward, failed) for part in parts]
        return [result for future in waiting for result in future.result()]

    def cost(self, rows: Sequence[Row], forward: Forward, *, clock: Callable[[], float]) -> float:
        """Seconds that the slowest lane spends on these rows, by a clock that is read on the lane's own thread.

        Processor time is the clock for a processor: neighbours on a busy machine do not change it. Raises what
        `forward` raises.
        """
        if self._pool is None or len(rows) == 1:
            return _cost(rows, forward, clock)
        waiting = [self._pool.submit(_cost, part, forward, clock) for part in self._parts(rows, None)]
        return max(future.result() for future in waiting)

    def _parts(self, rows: Sequence[Row], most: int | None) -> list[Sequence[Row]]:
        parts = min(self.count, len(rows)) if most is None else -(-len(rows) // most)
        cuts = [len(rows) * part // parts for part in range(parts + 1)]
        return [rows[start:stop] for start, stop in itertools.pairwise(cuts)]

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)


def _isolated(
    rows: Sequence[Row], forward: Forward, failed: Callable[[int, Exception], None]
) -> list[torch.Tensor | Exception]:
    """Run a batch; when it fails, run its halves, so that only the guilty rows (or none, if memory was short) fail."""
    try:
        return list(forward(rows).split(1))
    except Exception as error:
        failed(len(rows), error)
        if len(rows) == 1:
            return [error]
    # Only here, where the exception is gone and with it the frames that held what the batch had computed.
    middle = len(rows) // 2
    return _isolated(rows[:middle], forward, failed) + _isolated(rows[middle:], forward, failed)


def _cost(rows: Sequence[Row], forward: Forward, clock: Callable[[], float]) -> float:
    began = clock()
    forward(rows)
    return clock() - began
