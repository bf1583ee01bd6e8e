"""Side by side on a CPU: a batch is cut into pieces, and each piece runs on a thread of its own with one core.

Small convolutions gain little from two cores inside one operation, and on a machine that does anything else,
operations that wait for each other's cores cost several times what they gain. Pieces never wait: two lanes of half a
batch beat two threads of a whole one on an idle machine, and hold up on a busy one. torch lets go of Python's lock
inside every kernel.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import TracebackType
from typing import TypeVar

import torch

from marsam.core.errors import Invalid

S = TypeVar("S")
T = TypeVar("T")

MOST = 4
"""Further cores go into each lane instead: Python itself takes about a tenth of a step, and lanes take turns in it.
Measured on two cores; the limit is arithmetic."""


class Lanes:
    """`count` lanes that share `cores` cores. A context manager; one lane is the calling thread itself."""

    def __init__(self, cores: int, *, count: int | None = None) -> None:
        if cores < 1:
            raise Invalid(f"cores must be ≥ 1, got {cores}", field="threads")
        self.cores = cores
        self.count = min(cores, MOST) if count is None else count
        self._threads = max(1, cores // self.count)
        self._pool: ThreadPoolExecutor | None = None
        if self.count > 1:
            # The number of threads of an operation belongs to the thread that calls it.
            self._pool = ThreadPoolExecutor(
                self.count, "lane", initializer=torch.set_num_threads, initargs=(self._threads,)
            )
        # The calling thread works alone between two maps, and must not leave other threads spinning behind.
        torch.set_num_threads(self._threads)

    def __enter__(self) -> "Lanes":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, work: Callable[[S], T], pieces: Sequence[S]) -> list[T]:
        """`work` of every piece, in order. What a piece raises is raised here, after all have ended."""
        if self._pool is None or len(pieces) < 2:
            return [work(piece) for piece in pieces]
        futures = [self._pool.submit(work, piece) for piece in pieces]
        return [future.result() for future in futures]


def cuts(size: int, pieces: int) -> list[slice]:
    """`size` rows in at most `pieces` slices, as even as can be, none empty."""
    pieces = max(1, min(size, pieces))
    edges = [size * i // pieces for i in range(pieces + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]
