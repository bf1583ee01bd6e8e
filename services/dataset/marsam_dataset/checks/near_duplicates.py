"""Copies that were resized, recompressed, cropped by a hair, brightened or mirrored.

Two 64-bit hashes propose pairs, generously; alignment decides. Thresholds on hashes alone either miss crops or call
drawings on one ground, and products on white, copies of each other.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from marsam.catalog.datasets import Item
from marsam_dataset.checks import alignment
from marsam_dataset.checks.alignment import View
from marsam_dataset.checks.batch import Batch, Found, found, preference
from marsam_dataset.checks.lookalikes import Pair

NAME = "near_duplicate"
COARSE_WITHIN = 90.0
"""Largest difference of two 16×16 pictures, means removed, that is worth aligning."""
SAME_MEAN, SAME_MOST = 3.0, 20.0
UNSURE_MEAN, UNSURE_MOST = 4.5, 36.0
"""Measured on Hayy's sets: copies ≤ 1.8 and ≤ 9, different scenes ≥ 4.6 and ≥ 40."""


def check(batch: Batch) -> Iterator[Found]:
    """Fail every copy but the one to keep; warn of pairs that only a person can tell."""
    sure: list[tuple[Item, Item]] = []
    unsure: list[tuple[Item, Item]] = []
    for pair in batch.alike:
        apart = _apart(pair, batch.views)
        if apart.mean <= SAME_MEAN and apart.most <= SAME_MOST:
            sure.append((pair.first, pair.second))
        elif apart.mean <= UNSURE_MEAN and apart.most <= UNSURE_MOST:
            unsure.append((pair.first, pair.second))
    grouped = _groups(sure)
    for group in grouped:
        keep = min(group, key=lambda item: preference(item, batch.failed))
        for item in group:
            if item is not keep:
                message = f"Nearly the same picture as {keep.file_name}, which is kept."
                yield found(item, NAME, "fail", "NEAR_DUPLICATE", message, related=[keep])
    together = {item.id: number for number, group in enumerate(grouped) for item in group}
    for first, second in unsure:
        if together.get(first.id, -1) != together.get(second.id, -2):
            message = f"May be a copy of {first.file_name}: look at both."
            yield found(second, NAME, "warn", "POSSIBLE_DUPLICATE", message, related=[first])


def _apart(pair: Pair, views: Mapping[str, View]) -> alignment.Apart:
    first, second = views[pair.first.image.digest], views[pair.second.image.digest]
    if pair.mirrored:
        second = second.mirrored()
    if float(np.abs(first.coarse - second.coarse).max()) > COARSE_WITHIN:
        return alignment.NOTHING_ALIKE
    return alignment.apart(first, second)


def _groups(pairs: Sequence[tuple[Item, Item]]) -> list[list[Item]]:
    """Join pairs to groups (union-find); items in order of arrival."""
    parent: dict[str, str] = {}
    items: dict[str, Item] = {}

    def root(id_: str) -> str:
        while parent.setdefault(id_, id_) != id_:
            parent[id_] = parent[parent[id_]]
            id_ = parent[id_]
        return id_

    for first, second in pairs:
        items[first.id], items[second.id] = first, second
        parent[root(first.id)] = root(second.id)
    groups: dict[str, list[Item]] = defaultdict(list)
    for id_ in sorted(items):
        groups[root(id_)].append(items[id_])
    return list(groups.values())
