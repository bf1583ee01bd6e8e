"""Decisions of people about items: a numbered log, folded over the items as imported."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import ClassVar, Literal

from marsam.catalog.datasets import Caption, Item
from marsam.core.clock import Clock
from marsam.core.errors import Conflict, Invalid
from marsam.core.ids import new_ulid
from marsam.core.names import ResourceName
from marsam.core.records import dump, load
from marsam.store import keys
from marsam.store.blobs import Blobs
from marsam.store.numbered import NumberedLog
from marsam_dataset.captions.forms import stored_form

Word = Literal["", "accept", "reject", "takedown"]
_TRIES = 20


@dataclass(frozen=True, kw_only=True)
class Decision:
    """About one item: a verdict ('' leaves the earlier one), other captions ((): leave them), and a note."""

    item: str
    verdict: Word = ""
    captions: tuple[Caption, ...] = ()
    reviewer: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ReviewEntry:
    """One entry of the log: decisions that were sent together."""

    SCHEMA: ClassVar[str] = "marsam.review/1"

    writer_id: str
    at: datetime
    decisions: tuple[Decision, ...]


@dataclass(frozen=True, kw_only=True)
class Standing:
    """All decisions folded: the last verdict and the last captions of each item that has any."""

    verdicts: Mapping[str, Word] = field(default_factory=dict)
    captions: Mapping[str, tuple[Caption, ...]] = field(default_factory=dict)

    def apply(self, item: Item) -> Item:
        """Return the item with the captions that reviewers gave it."""
        captions = self.captions.get(item.id)
        return replace(item, captions=captions) if captions else item


class Reviews:
    """The log of one dataset."""

    def __init__(self, blobs: Blobs, dataset: ResourceName, clock: Clock) -> None:
        self._log = NumberedLog(blobs, keys.reviews(dataset.project, dataset.id))
        self._clock = clock

    async def standing(self) -> Standing:
        """Return what all decisions so far amount to."""
        return _fold(await self._entries())

    async def add(self, decisions: Sequence[Decision], *, writer_id: str = "") -> Standing:
        """Append decisions as one entry and return the new standing; an entry of this `writer_id` is not added twice.

        Captions are brought to their stored form. Raises Invalid: CAPTION_EMPTY when nothing is left of one,
        ITEM_WITHDRAWN for an item that was taken down, which is final.
        """
        entry = ReviewEntry(
            writer_id=writer_id or new_ulid(self._clock),
            at=self._clock.now(),
            decisions=tuple(replace(d, captions=tuple(map(_stored, d.captions))) for d in decisions),
        )
        for _ in range(_TRIES):
            entries = await self._entries()
            standing = _fold(entries)
            if any(known.writer_id == entry.writer_id for known in entries):
                return standing
            gone = [
                d.item for d in decisions if standing.verdicts.get(d.item) == "takedown" and d.verdict != "takedown"
            ]
            if gone:
                raise Invalid(
                    f"item {gone[0]} was taken down and cannot be reviewed", reason="ITEM_WITHDRAWN", field="reviews"
                )
            try:
                await self._log.append(len(entries), dump(entry))
            except Conflict:
                continue
            return _fold([*entries, entry])
        raise Conflict("the reviews of this dataset keep changing", reason="LOG_MOVED")

    async def _entries(self) -> list[ReviewEntry]:
        return [load(ReviewEntry, data, what="review") for data in await self._log.read_all()]


def _stored(caption: Caption) -> Caption:
    text = stored_form(caption.text)
    if not text:
        raise Invalid("a caption needs words", reason="CAPTION_EMPTY", field="reviews.captions")
    return replace(caption, text=text)


def _fold(entries: Sequence[ReviewEntry]) -> Standing:
    verdicts: dict[str, Word] = {}
    captions: dict[str, tuple[Caption, ...]] = {}
    for entry in entries:
        for decision in entry.decisions:
            if decision.verdict:
                verdicts[decision.item] = decision.verdict
            if decision.captions:
                captions[decision.item] = decision.captions
    return Standing(verdicts=verdicts, captions=captions)
