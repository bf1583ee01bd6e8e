"""What every check is given, and what it gives."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from marsam.catalog.datasets import Finding, Item, Severity
from marsam_dataset.checks.alignment import View
from marsam_dataset.checks.lookalikes import Pair
from marsam_dataset.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Batch:
    """All items of a set as they stand after review, in order of arrival.

    `failed` holds the ids that an earlier check failed. `alike` are pairs with close hashes (see `lookalikes`), and
    `views` the small pictures of their items, by image digest.
    """

    items: Sequence[Item]
    vocabulary: Vocabulary
    failed: frozenset[str] = frozenset()
    alike: Sequence[Pair] = ()
    views: Mapping[str, View] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A finding and the id of the item that it is about."""

    item: str
    finding: Finding


Check = Callable[[Batch], Iterator[Found]]


def found(
    item: Item, check: str, severity: Severity, reason: str, message: str, *, related: Sequence[Item] = ()
) -> Found:
    """Return one finding about `item`; `related` are named by file."""
    names = tuple(other.file_name for other in related)
    return Found(
        item=item.id, finding=Finding(check=check, severity=severity, reason=reason, message=message, related=names)
    )


def preference(item: Item, failed: frozenset[str]) -> tuple[object, ...]:
    """Sort key among copies of one picture: the first is the one to keep.

    Sound before failed, then resolution, declared rights, the amount said about it, and last who came first.
    """
    said = sum(len(caption.text) for caption in item.captions)
    return (item.id in failed, -item.width * item.height, not item.rights.licence, -said, item.id)
