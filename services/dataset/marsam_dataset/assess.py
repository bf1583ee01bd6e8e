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
from marsam_dataset.checks import lookalikes, repetition, suite
from marsam_dataset.checks.alignment import View
from marsam_dataset.checks.batch import Batch, Found
from marsam_dataset.checks.lookalikes import Pair
from marsam_dataset.reviews import Reviews, Standing
from marsam_dataset.vocabularies import load_vocabulary

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
    # A rejected picture must not be the copy that is kept.
    live = [item for item in items if standing.verdicts.get(item.id) != "reject"]
    alike = await asyncio.to_thread(lookalikes.candidates, live)
    batch = Batch(
        items=live,
        vocabulary=await load_vocabulary(blobs, name.project, name.id, items),
        alike=alike,
        views=await _views(blobs, name, alike),
    )
    return await asyncio.to_thread(_assess, items, standing, batch)


async def _views(blobs: Blobs, dataset: ResourceName, alike: Sequence[Pair]) -> dict[str, View]:
    """Small pictures of the items in `alike`, by digest. The files are our own PNGs, verified as they are read."""
    digests = sorted({item.image.digest for pair in alike for item in (pair.first, pair.second)})
    views: dict[str, View] = {}
    for at in range(0, len(digests), _READ_AT_ONCE):
        some = digests[at : at + _READ_AT_ONCE]
        pngs = await asyncio.gather(*(read_blob(blobs, dataset.project, digest) for digest in some))
        views.update(zip(some, await asyncio.to_thread(_look, pngs), strict=True))
    return views


def _look(pngs: Sequence[bytes]) -> list[View]:
    return [View.of_png(png) for png in pngs]


def _assess(items: Sequence[Item], standing: Standing, batch: Batch) -> Assessment:
    found = suite.run(batch)
    excluded = {item.id: "REVIEW_REJECTED" for item in items if standing.verdicts.get(item.id) == "reject"}
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
