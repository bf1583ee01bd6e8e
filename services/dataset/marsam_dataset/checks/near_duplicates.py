"""Copies that were resized, recompressed, brightened or mirrored.

Two 64-bit hashes propose pairs, and a 16×16 colour signature confirms them: hashes see brightness only, and drawings on
one background or products on white look alike to them.
"""

import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from marsam.catalog.datasets import Item
from marsam.imaging.hashes import mirror_dhash, mirror_phash
from marsam_dataset.checks.batch import Batch, Found, found, preference

NAME = "near_duplicate"
PHASH_AT_MOST, DHASH_AT_MOST = 4, 6
REVIEW_AT_MOST = 10
SIGNATURE_SIDE = 16
SAME_WITHIN, REVIEW_WITHIN = 30.0, 40.0
"""Largest difference of a signature's cell, 0–255, means aligned. Measured on drawn scenes: altered copies ≤ 18,
different scenes whose hashes agree ≥ 41 (docs/verification.md)."""
_BLOCK = 1024


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two items whose hashes are close; `sure` when both are within the strict thresholds."""

    first: Item
    second: Item
    mirrored: bool
    sure: bool


def candidates(items: Sequence[Item]) -> list[Pair]:
    """Return the pairs to compare by signature. Blocking; about 2 s for 20,000 items."""
    if len(items) < 2:
        return []
    p = np.array([item.phash for item in items], dtype=np.uint64)
    d = np.array([item.dhash for item in items], dtype=np.uint64)
    mirrored_p = np.array([mirror_phash(item.phash) for item in items], dtype=np.uint64)
    mirrored_d = np.array([mirror_dhash(item.dhash) for item in items], dtype=np.uint64)
    pairs: dict[tuple[int, int], Pair] = {}
    for mirrored, (other_p, other_d) in ((False, (p, d)), (True, (mirrored_p, mirrored_d))):
        for start in range(0, len(items), _BLOCK):
            rows = slice(start, start + _BLOCK)
            p_far = np.bitwise_count(p[rows, None] ^ other_p[None, :])
            d_far = np.bitwise_count(d[rows, None] ^ other_d[None, :])
            for row, column in np.argwhere((p_far <= REVIEW_AT_MOST) & (d_far <= REVIEW_AT_MOST)):
                a, b = int(row) + start, int(column)
                sure = bool(p_far[row, column] <= PHASH_AT_MOST and d_far[row, column] <= DHASH_AT_MOST)
                if a < b and items[a].pixel_digest != items[b].pixel_digest and ((a, b) not in pairs or sure):
                    pairs[a, b] = Pair(first=items[a], second=items[b], mirrored=mirrored, sure=sure)
    return [pairs[key] for key in sorted(pairs)]


def signature(png: bytes) -> Any:
    """Return the 16×16×3 float picture, less its mean colour, of a normalised PNG. Blocking."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        small = image.convert("RGB").resize((SIGNATURE_SIDE, SIGNATURE_SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.float32)
    return pixels - pixels.mean(axis=(0, 1))


def check(batch: Batch) -> Iterator[Found]:
    """Fail every copy but the one to keep; warn of pairs that only a person can tell."""
    sure: list[tuple[Item, Item]] = []
    unsure: list[tuple[Item, Item]] = []
    for pair in candidates(batch.items):
        apart = _apart(pair, batch.signatures)
        if pair.sure and apart <= SAME_WITHIN:
            sure.append((pair.first, pair.second))
        elif apart <= REVIEW_WITHIN:
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


def _apart(pair: Pair, signatures: Mapping[str, Any]) -> float:
    first, second = (signatures.get(item.image.digest) for item in (pair.first, pair.second))
    if first is None or second is None:
        return float("inf")
    return float(np.abs(first - (second[:, ::-1] if pair.mirrored else second)).max())


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
