"""A dataset as it stands: its items after review, what the checks find, and what a version would keep."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from marsam.catalog.datasets import Item
from marsam.catalog.repository import list_items, load_dataset
from marsam.core.clock import Clock
from marsam.core.names import ResourceName, parse
from marsam.store.blobs import Blobs
from marsam.store.content import read_blob
from marsam_dataset import balance
from marsam_dataset.balance import Association
from marsam_dataset.checks import near_duplicates, repetition, suite
from marsam_dataset.checks.batch import Batch, Found
from marsam_dataset.reviews import Reviews, Standing
from marsam_dataset.vocabularies import load_vocabulary
from marsam_dataset.vocabulary import Vocabulary

_READ_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """`kept` is what the default selection keeps, in order of arrival; `excluded` maps each other item to its reason.

    Associations and coverage are of `kept`: of what would be trained on.
    """

    items: tuple[Item, ...]
    standing: Standing
    found: tuple[Found, ...]
    kept: tuple[Item, ...]
    excluded: Mapping[str, str]
    associations: tuple[Association, ...]
    coverage: tuple[tuple[str, str, int], ...]
    warnings: tuple[str, ...]


async def assess(blobs: Blobs, dataset: str, clock: Clock) -> Assessment:
    """Check the dataset called `dataset`. Raises Missing (DATASET_NOT_FOUND)."""
    name = parse(dataset, "dataset")
    await load_dataset(blobs, dataset)
    standing = await Reviews(blobs, name, clock).standing()
    # What was withdrawn is not looked at again, by anyone.
    stored = [i for i in await list_items(blobs, dataset) if standing.verdicts.get(i.id) != "takedown"]
    items = [standing.apply(item) for item in stored]
    vocabulary = await load_vocabulary(blobs, name.project, name.id, items)
    signatures = await _signatures(blobs, name, items)
    return await asyncio.to_thread(_assess, items, standing, vocabulary, signatures)


async def _signatures(blobs: Blobs, dataset: ResourceName, items: Sequence[Item]) -> dict[str, object]:
    """Signatures of the pictures that look alike to the hashes; the pictures are our own PNGs, verified by digest."""
    pairs = await asyncio.to_thread(near_duplicates.candidates, items)
    digests = sorted({item.image.digest for pair in pairs for item in (pair.first, pair.second)})
    signatures: dict[str, object] = {}
    for at in range(0, len(digests), _READ_AT_ONCE):
        some = digests[at : at + _READ_AT_ONCE]
        pngs = await asyncio.gather(*(read_blob(blobs, dataset.project, digest) for digest in some))
        for digest, png in zip(some, pngs, strict=True):
            signatures[digest] = await asyncio.to_thread(near_duplicates.signature, png)
    return signatures


def _assess(
    items: Sequence[Item], standing: Standing, vocabulary: Vocabulary, signatures: Mapping[str, object]
) -> Assessment:
    rejected = {i.id for i in items if standing.verdicts.get(i.id) == "reject"}
    # A rejected picture must not be the copy that is kept.
    batch = Batch(items=[i for i in items if i.id not in rejected], vocabulary=vocabulary, signatures=signatures)
    found = suite.run(batch)
    excluded = dict.fromkeys(rejected, "REVIEW_REJECTED")
    for one in found:
        if one.finding.severity == "fail" and standing.verdicts.get(one.item) != "accept":
            excluded.setdefault(one.item, one.finding.reason)
    kept = tuple(item for item in items if item.id not in excluded)
    associations = balance.associations(kept)
    return Assessment(
        items=tuple(items),
        standing=standing,
        found=tuple(found),
        kept=kept,
        excluded=excluded,
        associations=tuple(associations),
        coverage=tuple(balance.coverage(kept)),
        warnings=tuple(_warnings(kept, excluded, found, associations)),
    )


def _warnings(
    kept: Sequence[Item], excluded: Mapping[str, str], found: Sequence[Found], associations: Sequence[Association]
) -> Iterator[str]:
    """Sentences for a person, most serious first."""
    if not kept:
        yield "No item is left: there is nothing to train on."
    yield from (association.message for association in associations if association.warns)
    yield from repetition.warnings(kept)
    yield from _languages(kept)
    unlicensed = sum(not item.rights.licence for item in kept)
    if unlicensed:
        yield f"{unlicensed} items declare no licence: say under which terms they may be used (rights.json)."
    if excluded:
        reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(excluded.values()).most_common())
        yield f"{len(excluded)} items would be left out of a version: {reasons}."
    doubtful = len({one.item for one in found if one.finding.severity == "warn" and one.item not in excluded})
    if doubtful:
        yield f"{doubtful} items are kept with a warning: look at them."


def _languages(kept: Sequence[Item]) -> Iterator[str]:
    """A language that most items have and some lack is learnt worse for it."""
    have = Counter(language for item in kept for language in {caption.language for caption in item.captions})
    for language, count in sorted(have.items()):
        if len(kept) / 2 <= count < len(kept):
            yield f"{len(kept) - count} items have no '{language}' caption; the other {count} have one."
