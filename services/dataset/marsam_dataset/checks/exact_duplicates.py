"""The same bytes, or the same pixels in other bytes, more than once."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from marsam.catalog.datasets import Item
from marsam_dataset.checks.batch import Batch, Found, found, preference

NAME = "exact_duplicate"


def check(batch: Batch) -> Iterator[Found]:
    """Fail every copy but the one to keep."""
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in batch.items:
        groups[item.pixel_digest].append(item)
    for group in groups.values():
        if len(group) > 1:
            yield from _mark(group, batch.failed)


def _mark(group: Sequence[Item], failed: frozenset[str]) -> Iterator[Found]:
    newest = {item.file_name: item.id for item in sorted(group, key=lambda i: i.id)}
    # The same file imported again replaces its earlier self: somebody corrected what lies beside it.
    keep = min(group, key=lambda item: (newest[item.file_name] != item.id, *preference(item, failed)))
    for item in group:
        if item is keep:
            continue
        if item.file_name == keep.file_name:
            yield found(item, NAME, "fail", "REPLACED", "A later import of this file replaces it.", related=[keep])
        elif item.original_digest == keep.original_digest:
            yield found(item, NAME, "fail", "SAME_BYTES", f"The same file as {keep.file_name}.", related=[keep])
        else:
            message = f"The same pixels as {keep.file_name}, in another file."
            yield found(item, NAME, "fail", "SAME_PIXELS", message, related=[keep])
