"""What a set would teach by accident: attributes that always come together, and what is rare.

A model cannot know which of two things that always appear together a word means. If every scientist stands in one
laboratory, 'scientist' comes to mean that room.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

import numpy as np

from marsam.catalog.datasets import Item

WARN_ABOVE = 0.8
FEWEST_ITEMS = 20
MOST_VALUES = 64
_UNSAID = frozenset({"", "none"})


@dataclass(frozen=True, kw_only=True)
class Association:
    """How strongly attributes `a` and `b` go together over `items` items that declare both: Cramér's V in [0, 1]."""

    a: str
    b: str
    v: float
    items: int
    warns: bool
    message: str


def cramers_v(table: np.ndarray) -> float:
    """Return the bias-corrected Cramér's V of a contingency table of counts (rows × columns).

    Bergsma 2013, doi:10.1016/j.jkss.2012.10.002: without the correction, independent attributes with many values look
    related in small sets. 0 for a table with a single row or column.
    """
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0].astype(float)
    rows, columns = table.shape
    n = table.sum()
    if min(rows, columns) < 2 or n < 2:
        return 0.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / n
    phi2 = float(((table - expected) ** 2 / expected).sum() / n)
    corrected = max(0.0, phi2 - (rows - 1) * (columns - 1) / (n - 1))
    rows_corrected = rows - (rows - 1) ** 2 / (n - 1)
    columns_corrected = columns - (columns - 1) ** 2 / (n - 1)
    least = min(rows_corrected, columns_corrected) - 1
    return min(1.0, sqrt(corrected / least)) if least > 0 else 0.0


def associations(items: Sequence[Item]) -> list[Association]:
    """Return the association of every pair of attributes, strongest first.

    Left out: an attribute with one value or with more than 64 (an identifier), and pairs declared on under 20 items.
    """
    values: dict[str, Counter[str]] = {}
    for item in items:
        for attribute, value in item.attributes.items():
            values.setdefault(attribute, Counter())[value] += 1
    usable = sorted(a for a, counts in values.items() if 2 <= len(counts) <= MOST_VALUES)
    pairs = [_associate(items, a, b) for a, b in combinations(usable, 2)]
    return sorted((p for p in pairs if p is not None), key=lambda p: (-p.v, p.a, p.b))


def _associate(items: Sequence[Item], a: str, b: str) -> Association | None:
    counts = Counter((i.attributes[a], i.attributes[b]) for i in items if a in i.attributes and b in i.attributes)
    n = sum(counts.values())
    if n < FEWEST_ITEMS:
        return None
    rows = {value: at for at, value in enumerate(sorted({x for x, _ in counts}))}
    columns = {value: at for at, value in enumerate(sorted({y for _, y in counts}))}
    table = np.zeros((len(rows), len(columns)))
    for (x, y), count in counts.items():
        table[rows[x], columns[y]] = count
    v = cramers_v(table)
    warns = v > WARN_ABOVE
    return Association(
        a=a, b=b, v=round(v, 4), items=n, warns=warns, message=_sentence(a, b, v, counts) if warns else ""
    )


def _sentence(a: str, b: str, v: float, counts: Counter[tuple[str, str]]) -> str:
    """Say what a model would learn, by the commonest pair that says something."""
    telling = {pair: count for pair, count in counts.items() if not _UNSAID & set(pair)} or dict(counts)
    (x, y), together = max(telling.items(), key=lambda pair: (pair[1], pair[0]))
    of_x = sum(count for (first, _), count in counts.items() if first == x)
    return (
        f"'{a}' and '{b}' go together (Cramér's V {v:.2f}): {together} of {of_x} pictures with {a} '{x}' have {b} "
        f"'{y}'. A model trained on this set learns them as one thing. Add pictures that part them."
    )


def coverage(items: Sequence[Item]) -> list[tuple[str, str, int]]:
    """Return (attribute, value, items), by attribute, commonest value first, at most 64 values of each."""
    counts: dict[str, Counter[str]] = {}
    for item in items:
        for attribute, value in item.attributes.items():
            counts.setdefault(attribute, Counter())[value] += 1
    return [
        (attribute, value, n)
        for attribute, values in sorted(counts.items())
        for value, n in sorted(values.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_VALUES]
    ]
