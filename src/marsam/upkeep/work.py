"""What jobs refer to: what they were asked, what their attempts told and left behind."""

import json
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any

from marsam.catalog.evaluations import EvaluationSpec
from marsam.catalog.files import FileRef
from marsam.catalog.imports import ImportSpec, Listing
from marsam.catalog.runs import RunSpec
from marsam.core.clock import SystemClock
from marsam.core.errors import Corrupt, Invalid, Missing
from marsam.core.ids import digest_hex
from marsam.core.names import format_name
from marsam.core.records import from_plain, load
from marsam.jobs.progress import read_events
from marsam.jobs.store import JobStore
from marsam.store import keys
from marsam.store.blobs import Blobs, names
from marsam.store.content import read_blob
from marsam.store.keys import JobKind
from marsam.upkeep.records import Reading, Record, sizes

KINDS: tuple[JobKind, ...] = ("imports", "runs", "evaluations")

Digests = dict[str, int | None]


async def jobs(blobs: Blobs, project: str, known: Collection[str]) -> AsyncIterator[Reading]:
    """Every job of `project` but those whose spec's key is in `known`; one that is alive is read again each time."""
    for kind in KINDS:
        store = JobStore(blobs, project, kind, SystemClock())
        alive = set(await store.open_ids())
        for job_id in sorted({*await store.ids(), *alive}):
            key = keys.job_spec(project, kind, job_id)
            if key not in known or job_id in alive:
                yield _reading(store, job_id, key)


def _reading(store: JobStore, job_id: str, key: str) -> Reading:
    name = format_name(store.kind[:-1], store.project, job_id)

    async def read() -> Record:
        try:
            spec = await store.spec(job_id)
        except Missing as error:
            if not [e async for e in store.blobs.children(keys.job(store.project, store.kind, job_id))]:
                raise  # being made, or a folder that the store goes on naming
            raise Corrupt(f"what {name} was asked is lost", reason="MANIFEST_UNREADABLE", resource=name) from error
        history = await _history(store, job_id)
        over = history is not None and history.over
        digests, uses = await _asked(store, spec, name)
        if history is not None:
            digests |= history.digests
        for attempt in await names(store.blobs, keys.attempts(store.project, store.kind, job_id), folders=True):
            digests |= await _attempted(store, job_id, int(attempt), name)
        return Record(name=name, key=key, digests=digests, uses=uses, settled=over, needs=() if over else uses)

    return name, key, read


class _Past:
    """Whether a job is over, and what its transitions refer to."""

    def __init__(self, over: bool, digests: Digests) -> None:
        self.over = over
        self.digests = digests


async def _history(store: JobStore, job_id: str) -> _Past | None:
    listed = await names(store.blobs, keys.job_log(store.project, store.kind, job_id), folders=False)
    if not listed:
        return None
    entries = await store.history(job_id)
    _check_whole(f"the log of {job_id}", len(entries), listed)
    digests: Digests = {}
    for entry in entries:
        digests |= _left(entry.detail, f"transition {entry.seq} of {job_id}")
    return _Past(entries[-1].state.terminal, digests)


async def _asked(store: JobStore, spec: bytes, name: str) -> tuple[Digests, tuple[str, ...]]:
    match store.kind:
        case "runs":
            run = load(RunSpec, spec, what=name)
            return {}, tuple(name for name in (run.base, run.dataset_version, run.regularisation) if name)
        case "evaluations":
            asked = load(EvaluationSpec, spec, what=name)
            return {}, (asked.suite, asked.judge, *asked.models)
        case "imports":
            order = load(ImportSpec, spec, what=name)
            try:
                data = await read_blob(store.blobs, store.project, order.listing)
            except Missing as error:
                lost = f"{name}: the list of its files, {order.listing}, is lost"
                raise Corrupt(lost, reason="MANIFEST_UNREADABLE", remedy="restore it from a backup") from error
            files = load(Listing, data, what=f"files of {name}").files
            return {order.listing: len(data), **{f.digest: f.size for f in files if f.digest}}, (order.dataset,)


async def _attempted(store: JobStore, job_id: str, attempt: int, name: str) -> Digests:
    """What one attempt told (pictures, previews) and left as its result."""
    listed = await names(store.blobs, keys.events(store.project, store.kind, job_id, attempt), folders=False)
    events, following = await read_events(store, job_id, attempt)
    _check_whole(f"the events of {name}, attempt {attempt}", following - 1, listed)
    digests: Digests = {}
    for event in events:
        match event.get("kind"):
            case "picture":
                digests |= _reference(event, f"an event of {name}")
            case "preview":
                files = event.get("files", [])
                digests |= sizes(from_plain(FileRef, file, what=f"a preview of {name}") for file in files)
    try:
        data = await store.blobs.get(keys.attempt_file(store.project, store.kind, job_id, attempt, "result.json"))
    except Missing:
        return digests
    return digests | _left(_plain(data, f"the result of {name}"), f"the result of {name}")


def _plain(data: bytes, what: str) -> Mapping[str, Any]:
    """Return the JSON object that `data` holds. Raises Corrupt."""
    try:
        found = json.loads(data)
    except ValueError as error:
        raise Corrupt(f"{what} is not JSON: {error}", reason="MANIFEST_UNREADABLE") from error
    if not isinstance(found, dict):
        raise Corrupt(f"{what} is no JSON object", reason="MANIFEST_UNREADABLE")
    return found


def _left(detail: Mapping[str, Any], what: str) -> Digests:
    """An evaluation's numbers and report; a run's result refers to no bytes of its own."""
    found: Digests = {}
    for part in ("results", "report"):
        if isinstance(detail.get(part), dict):
            found |= _reference(detail[part], what)
    return found


def _reference(plain: Mapping[str, Any], what: str) -> Digests:
    digest, size = plain.get("digest"), plain.get("size")
    try:
        digest_hex(str(digest))
    except Invalid as error:
        raise Corrupt(f"{what}: {error.message}", reason="MANIFEST_INVALID") from error
    return {str(digest): size if isinstance(size, int) else None}


def _check_whole(what: str, read: int, listed: list[str]) -> None:
    """Raise Corrupt when a numbered log has entries behind a gap: reading it by number ends there."""
    if listed and int(listed[-1]) > read:
        raise Corrupt(f"{what}: entry {read + 1} is lost, but entry {int(listed[-1])} is there",
                      reason="LOG_GAP", remedy="restore the lost entry from a backup")  # fmt: skip
