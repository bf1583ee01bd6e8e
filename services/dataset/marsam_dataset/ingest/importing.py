"""One attempt of an import job: decode what is not decided yet, store the items, report.

Every step is idempotent, and decided files are in the job's events, so an attempt that dies is simply followed by
another.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from marsam.catalog.datasets import Finding, Item
from marsam.catalog.files import FileRef
from marsam.catalog.imports import ImportSpec, Listing, VocabularyRecord
from marsam.catalog.repository import list_items, save_item
from marsam.core.clock import format_time
from marsam.core.errors import Exists, MarsamError
from marsam.core.names import parse
from marsam.core.records import dump, load
from marsam.imaging.pool import Decoded, DecodePool, Rejected
from marsam.jobs.progress import append_events, read_events
from marsam.jobs.store import JobStore
from marsam.store import keys
from marsam.store.content import put_blob, read_blob
from marsam.store.numbered import NumberedLog
from marsam.telemetry import Log, Meter, metrics
from marsam.telemetry.rates import Rate
from marsam_dataset.checks import quality
from marsam_dataset.ingest import folder, masks
from marsam_dataset.ingest.folder import Entry, Plan
from marsam_dataset.ingest.records import Verdict, item_id

_LOG = Log("marsam.dataset.import")
_REPORT_S = 0.5
_SEGMENT_FILES = 500
_OVERLAP = 6
"""Files under way per decoder: while one is decoded, others are read and written."""


class Attempt:
    """One attempt at one import."""

    def __init__(
        self, jobs: JobStore, job_id: str, number: int, *, pool: DecodePool, workers: int, meter: Meter, rate: Rate
    ) -> None:
        self._jobs = jobs
        self._blobs = jobs.blobs
        self._id = job_id
        self._number = number
        self._pool = pool
        self._parallel = workers * _OVERLAP
        self._meter = meter
        self._rate = rate
        self._waiting: list[Verdict] = []
        self._own_rate = Rate()
        self._over = asyncio.Event()

    async def run(self) -> str:
        """Bring the import to its end and return a sentence about it. Raises MarsamError when it cannot go on."""
        spec = load(ImportSpec, await self._jobs.spec(self._id), what=f"import {self._id}")
        dataset = parse(spec.dataset, "dataset")
        received, plan = await self._plan(spec)
        decided = await self._decided()
        present = {(i.file_name, i.original_digest): i for i in await list_items(self._blobs, spec.dataset)}
        known = [Verdict(path=path, accepted=True, reason="BESIDE_PICTURES") for path in plan.beside]
        for p in plan.problems:
            of_file = p.path in received
            known.append(Verdict(path=p.path, accepted=False, reason=p.reason, message=p.message, of_file=of_file))
        self._note([verdict for verdict in known if verdict.path not in decided])
        work = iter([(n, e) for n, e in enumerate(plan.entries) if e.path not in decided])
        reporting = asyncio.create_task(self._report(), name="import.report")
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._parallel):
                    group.create_task(self._take(work, spec, present, reporting))
        except ExceptionGroup as errors:  # not `except*`, which wraps what it raises in Python 3.11.2
            told = errors.subgroup(MarsamError)
            if told is None:
                raise
            raise _first(told) from errors
        finally:
            # Not cancelled: what was decided before a failure need not be decided again.
            self._over.set()
            await reporting
        if plan.vocabulary:
            await self._remember_vocabulary(dataset.project, dataset.id, plan.vocabulary)
        return f"{len(plan.entries)} pictures and {len(plan.problems)} problems beside them were decided."

    async def _plan(self, spec: ImportSpec) -> tuple[set[str], Plan]:
        """Return the paths of all received files, and what to do with them."""
        project = self._jobs.project
        listing = load(Listing, await read_blob(self._blobs, project, spec.listing), what=f"files of {self._id}")
        described = [f for f in listing.files if not f.reason and folder.sidecar(f.path)]
        texts = {f.path: await read_blob(self._blobs, project, f.digest) for f in described}
        plan = await asyncio.to_thread(folder.plan, listing.files, texts, default_rights=spec.default_rights)
        return {file.path for file in listing.files}, plan

    async def _decided(self) -> set[str]:
        decided: set[str] = set()
        for attempt in range(1, self._number):
            events, _ = await read_events(self._jobs, self._id, attempt)
            decided |= {event["path"] for event in events if event["kind"] == "verdict"}
        return decided

    async def _take(
        self,
        work: Iterator[tuple[int, Entry]],
        spec: ImportSpec,
        present: dict[tuple[str, str], Item],
        reporting: asyncio.Task[None],
    ) -> None:
        for ordinal, entry in work:
            if reporting.done():
                return  # it failed: awaiting it says why
            self._note(await self._one(ordinal, entry, spec.dataset, present.get((entry.path, entry.digest))))
            self._rate.add()
            self._own_rate.add()

    async def _one(self, ordinal: int, entry: Entry, dataset: str, present: Item | None) -> list[Verdict]:
        """The verdicts on a picture and its mask. The picture's comes last: an attempt that ends between them begins
        with the picture again."""
        if present is not None and _says_the_same(present, entry):
            message = "This file is in the set already, with the same captions, attributes and rights."
            beside = [Verdict(path=entry.mask.path, accepted=True, reason="BESIDE_PICTURES")] if entry.mask else []
            there = Verdict(path=entry.path, accepted=True, reason="ALREADY_PRESENT", message=message, item=present.id)
            return [*beside, there]
        began = time.monotonic()
        original = await read_blob(self._blobs, self._jobs.project, entry.digest)
        decoded = await self._pool.decode(original)
        self._meter.observe(metrics.DECODE_SECONDS, time.monotonic() - began)
        if isinstance(decoded, Rejected):
            refused = Verdict(path=entry.path, accepted=False, reason=decoded.reason, message=decoded.message)
            return [*([masks.without_picture(entry.mask)] if entry.mask else []), refused]
        stored = await put_blob(self._blobs, self._jobs.project, decoded.png)
        id_ = item_id(self._id, ordinal, entry.path)
        image = FileRef(path=f"images/{id_}.png", digest=stored.digest, size=stored.size, media_type="image/png")
        item, verdicts = _item(id_, entry, decoded, image), [Verdict(path=entry.path, accepted=True, item=id_)]
        if entry.mask is not None:
            mask, verdict = await masks.take(
                self._blobs, self._jobs.project, self._pool, entry.mask, picture=decoded, id_=id_
            )
            item = replace(item, mask=mask, findings=(*item.findings, *masks.findings(verdict)))
            verdicts.insert(0, verdict)
        elif "MATTED_ON_WHITE" in decoded.notes:
            mask, found = await masks.of_alpha(self._blobs, self._jobs.project, self._pool, original, entry.digest, id_)
            item = replace(item, mask=mask, findings=(*item.findings, *found))
        try:
            await save_item(self._blobs, dataset, item)
        except Exists:  # an attempt of another Marsam version wrote it, and other pixels came out: that one holds
            _LOG.warning("import.item_kept", item=id_, file=entry.path)
        return verdicts

    def _note(self, verdicts: Sequence[Verdict]) -> None:
        self._waiting += verdicts
        for verdict in verdicts:
            if verdict.of_file:
                word = (
                    "beside" if verdict.accepted and not verdict.item else "accepted" if verdict.accepted else "refused"
                )
                reason = verdict.reason if word == "refused" else ""
                self._meter.inc(metrics.IMPORT_FILES, verdict=word, reason=reason)

    async def _report(self) -> None:
        """Write verdicts as numbered segments of events, now and then, until the attempt is over and all are
        written.
        """
        segment = 1
        while not self._over.is_set() or self._waiting:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REPORT_S):
                    await self._over.wait()
            while self._waiting:
                verdicts, self._waiting = self._waiting[:_SEGMENT_FILES], self._waiting[_SEGMENT_FILES:]
                progress = {
                    "kind": "progress",
                    "images_per_second": round(self._own_rate.per_second(), 3),
                    "at": format_time(self._jobs.clock.now()),
                }
                events = [*(verdict.event() for verdict in verdicts), progress]
                await append_events(self._jobs, self._id, self._number, segment, events)
                segment += 1

    async def _remember_vocabulary(self, project: str, dataset: str, digest: str) -> None:
        log = NumberedLog(self._blobs, keys.vocabularies(project, dataset))
        head = await log.head()
        if head is not None and load(VocabularyRecord, head[1]).import_id == self._id:
            return
        record = VocabularyRecord(import_id=self._id, digest=digest)
        await log.append(head[0] if head else 0, dump(record))


def _item(id_: str, entry: Entry, decoded: Decoded, image: FileRef) -> Item:
    return Item(
        id=id_,
        file_name=entry.path,
        image=image,
        original_digest=entry.digest,
        pixel_digest=decoded.pixel_digest,
        width=decoded.width,
        height=decoded.height,
        phash=decoded.phash,
        dhash=decoded.dhash,
        captions=entry.captions,
        attributes=entry.attributes,
        rights=entry.rights,
        split=entry.split,
        findings=(*entry.findings, *quality.findings(decoded), *_origin(entry, decoded)),
    )


def _origin(entry: Entry, decoded: Decoded) -> Iterator[Finding]:
    """What the file's own metadata says of rights, when nobody else does, and that it told where it was taken."""
    origin = decoded.provenance
    if origin.copyright and not entry.rights.holder:
        message = f"The file claims copyright: “{origin.copyright}”. Declare the holder."
        yield Finding(check="rights", severity="warn", reason="COPYRIGHT_IN_FILE", message=message)
    if origin.has_location:
        message = "The file told where it was taken; the coordinates were dropped."
        yield Finding(check="rights", severity="info", reason="LOCATION_REMOVED", message=message)


def _says_the_same(item: Item, entry: Entry) -> bool:
    # A mask that was made of the picture's own alpha comes again with it.
    mask = item.mask.original_digest if item.mask and item.mask.original_digest != item.original_digest else ""
    return (item.captions, dict(item.attributes), item.rights, item.split, mask) == (
        entry.captions,
        dict(entry.attributes),
        entry.rights,
        entry.split,
        entry.mask.digest if entry.mask else "",
    )


def _first(errors: BaseExceptionGroup[MarsamError]) -> MarsamError:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, MarsamError)
    return error
