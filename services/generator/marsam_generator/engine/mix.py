"""Who asks for what in one forward: rows, their adapters, and which of them one operation can answer together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_ROWS_BY_GROUP = 2
"""A convolution of several adapters takes every row as a group; longer runs of rows are faster convolved run by run."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Rows next to each other that ask for one adapter at one weight."""

    rows: slice
    key: str
    weight: float

    @property
    def count(self) -> int:
        """How many rows."""
        return int(self.rows.stop - self.rows.start)


@dataclass(frozen=True, slots=True)
class Batch:
    """Asks of neighbours that one operation answers: each of as many rows, their adapters of one rank.

    `weights` is (asks, 1, 1) for Linear layers, (rows, 1, 1) for convolutions.
    """

    asks: tuple[Ask, ...]
    rows: slice
    weights: Tensor


class Mix:
    """What the rows of a forward ask for: row i for ``uses[i]``, adapter key → weight. Belongs to one thread.

    With `apart` no two rows share an operation. Asks come in rounds: the first adapter of every row, then the second,
    and so on. `like` says where tensors of weights lie and of what type.
    """

    def __init__(self, uses: Sequence[Mapping[str, float]], *, apart: bool, like: Tensor) -> None:
        self.rows = len(uses)
        wanted = [[(key, weight) for key, weight in use.items() if weight != 0] for use in uses]
        self._rounds: list[list[Ask]] = [[] for _ in range(max(map(len, wanted), default=0))]
        for row, use in enumerate(wanted):
            goes_on = row > 0 and wanted[row - 1] == use and not apart
            for asks, (key, weight) in zip(self._rounds, use, strict=False):
                first = asks.pop().rows.start if goes_on else row
                asks.append(Ask(slice(first, row + 1), key, weight))
        self._asked = [ask.key for asks in self._rounds for ask in asks]
        self._apart = apart
        self._like = like
        self._known: dict[tuple[object, ...], list[Batch]] = {}

    @property
    def asks_nothing(self) -> bool:
        """Whether every row is the base's."""
        return not self._asked

    def batches(self, ranks: Mapping[str, int], *, convolution: bool) -> Sequence[Batch]:
        """The asks that a layer answers whose adapters have these ranks, by key."""
        kind = (convolution, *map(ranks.get, self._asked))
        if kind not in self._known:
            self._known[kind] = [
                self._batch(asks, convolution)
                for each in self._rounds
                for asks in self._joined(each, ranks, convolution)
            ]
        return self._known[kind]

    def _joined(self, asks: Sequence[Ask], ranks: Mapping[str, int], convolution: bool) -> list[list[Ask]]:
        most = 0 if self._apart else _ROWS_BY_GROUP if convolution else self.rows
        joined: list[list[Ask]] = []
        for ask in asks:
            if ask.key not in ranks:
                continue
            last = joined[-1][-1] if joined else None
            if (
                last is not None
                and last.rows.stop == ask.rows.start
                and last.count == ask.count <= most
                and ranks[last.key] == ranks[ask.key]
            ):
                joined[-1].append(ask)
            else:
                joined.append([ask])
        return joined

    def _batch(self, asks: Sequence[Ask], convolution: bool) -> Batch:
        weights = [ask.weight for ask in asks for _ in range(ask.count if convolution else 1)]
        column = torch.tensor(weights, dtype=self._like.dtype, device=self._like.device).view(-1, 1, 1)
        return Batch(tuple(asks), slice(asks[0].rows.start, asks[-1].rows.stop), column)
