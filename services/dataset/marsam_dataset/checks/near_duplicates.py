"""Copies that were resized, recompressed, cropped by a hair, brightened or mirrored.

Two 64-bit hashes propose pairs, generously; alignment decides. Thresholds on hashes alone either miss crops or call
drawings on one ground, and products on white, copies of each other.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from marsam.catalog.datasets import Item
from marsam_dataset.checks import alignment
from marsam_dataset.checks.alignment import View
from marsam_dataset.checks.batch import Batch, Found, found, preference
from marsam_dataset.checks.lookalikes import Pair

NAME = "near_duplicate"
COARSE_WITHIN = 90.0
"""Largest difference of two 16×16 pictures, means removed, that is worth aligning."""
SAME_MEAN, SAME_MOST = 3.7, 25.0
UNSURE_MEAN, UNSURE_MOST = 4.7, 36.0
"""Measured on Hayy's sets: cropped and brightened copies ≤ 2.3 and ≤ 13, different scenes ≥ 5.0 and ≥ 37; on saturated
drawings squeezed by JPEG at quality 40 ≤ 3.4 and ≤ 21.
"""


def check(batch: Batch) -> Iterator[Found]:
    """Fail every copy but the one to keep; warn of pairs that only a person can tell."""
    groups = _Groups()
    unsure: list[tuple[Item, Item]] = []
    for pair in batch.alike:
        if groups.together(pair.first, pair.second):
            continue  # a thousand frames of one scene then cost a thousand comparisons, not half a million
        apart = _apart(pair, batch.views)
        if apart.mean <= SAME_MEAN and apart.most <= SAME_MOST:
            groups.join(pair.first, pair.second)
        elif apart.mean <= UNSURE_MEAN and apart.most <= UNSURE_MOST:
            unsure.append((pair.first, pair.second))
    for group in groups.all():
        keep = min(group, key=lambda item: preference(item, batch.failed))
        for item in group:
            if item is not keep:
                message = f"Nearly the same picture as {keep.file_name}, which is kept."
                yield found(item, NAME, "fail", "NEAR_DUPLICATE", message, related=[keep])
    for first, second in unsure:
        if not groups.together(first, second):
            message = f"May be a copy of {first.file_name}: look at both."
            yield found(second, NAME, "warn", "POSSIBLE_DUPLICATE", message, related=[first])


def _apart(pair: Pair, views: Mapping[str, View]) -> alignment.Apart:
    first, second = views[pair.first.image.digest], views[pair.second.image.digest]
    if pair.mirrored:
        second = second.mirrored()
    if float(np.abs(first.coarse - second.coarse).max()) > COARSE_WITHIN:
        return alignment.NOTHING_ALIKE
    return alignment.apart(first, second)


class _Groups:
    """Items joined pair by pair (union-find)."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}
        self._items: dict[str, Item] = {}

    def join(self, first: Item, second: Item) -> None:
        self._items[first.id], self._items[second.id] = first, second
        self._parent[self._root(second.id)] = self._root(first.id)

    def together(self, first: Item, second: Item) -> bool:
        return self._root(first.id) == self._root(second.id)

    def all(self) -> list[list[Item]]:
        """The groups of two and more, items in order of arrival."""
        groups: dict[str, list[Item]] = defaultdict(list)
        for id_ in sorted(self._items):
            groups[self._root(id_)].append(self._items[id_])
        return list(groups.values())

    def _root(self, id_: str) -> str:
        while self._parent.setdefault(id_, id_) != id_:
            self._parent[id_] = self._parent[self._parent[id_]]
            id_ = self._parent[id_]
        return id_
