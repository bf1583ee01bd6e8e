"""Reading everything back: every blob against its digest, and who depends on those that are not what they should be."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from marsam.core.errors import Missing, did_you_mean
from marsam.core.ids import digest_hex
from marsam.core.names import parse
from marsam.store import keys
from marsam.store.blobs import Blobs, names
from marsam.store.threads import offload
from marsam.upkeep.contents import Content, contents
from marsam.upkeep.graph import Graph

AT_ONCE = 4
PIECE = 4 << 20
"""Bytes of one blob in memory at a time; `AT_ONCE` blobs are read side by side."""

Kind = Literal["missing", "damaged", "size", "unreadable"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is not as it should be. `name` is a blob's digest or an unreadable record's resource name;
    `dependents` are the names that need it, nearest first. A blob that nothing refers to has none.
    """

    kind: Kind
    project: str
    name: str
    key: str
    message: str
    remedy: str
    dependents: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Tally:
    """How far a verification is: blobs and bytes read, of how many; records, and findings."""

    blobs: int = 0
    bytes: int = 0
    all_blobs: int = 0
    all_bytes: int = 0
    records: int = 0
    findings: int = 0


async def verify(
    blobs: Blobs,
    *,
    sample: int | None = None,
    under: str = "",
    tally: Tally | None = None,
    tick: Callable[[], None] = lambda: None,
) -> AsyncIterator[Finding]:
    """Yield what is wrong in the whole store, or with what the resource name `under` needs.

    Every blob that a record refers to must be there. All blobs are read and hashed, or `sample` of them, chosen at
    random, in each project. `tally` is kept up to date, and `tick` called now and then.

    Raises Missing (UPKEEP_NAME) when nothing is called `under`.
    """
    tally = tally if tally is not None else Tally()
    projects = await names(blobs, keys.projects(), folders=True)
    if under:
        wanted = parse("/".join(under.split("/")[:2]), "project", field="--under").project
        if wanted not in projects:
            raise Missing(f"there is no project '{wanted}'", reason="UPKEEP_NAME", field="--under",
                          remedy=did_you_mean(wanted, projects))  # fmt: skip
        projects = [wanted]
    for project in projects:
        async for finding in _project(blobs, project, sample, under, tally, tick):
            tally.findings += 1
            yield finding


async def _project(
    blobs: Blobs, project: str, sample: int | None, under: str, tally: Tally, tick: Callable[[], None]
) -> AsyncIterator[Finding]:
    graph = Graph(blobs, project)
    await graph.read()
    tally.records += graph.records
    for bad in graph.unreadable:
        yield Finding(
            kind="unreadable", project=project, name=bad.name, key=bad.key, message=str(bad.error.message),
            remedy=bad.error.remedy or "restore it from a backup; until then nothing is collected",
            dependents=graph.above([bad.name])[1:],
        )  # fmt: skip
    whole_project = under in ("", f"projects/{project}")
    if not whole_project and not graph.knows(under):
        raise Missing(f"nothing is called '{under}'", reason="UPKEEP_NAME", field="--under",
                      remedy=did_you_mean(under, graph.names()))  # fmt: skip
    wanted = None if whole_project else graph.under(under)
    found = [c async for c in contents(blobs, project) if wanted is None or c.digest in wanted]
    for digest in sorted({*(graph.digests() if wanted is None else wanted)} - {content.digest for content in found}):
        key = keys.blob(project, digest)
        if not await _is_there(blobs, key):  # it may have come since they were listed
            message = f"{digest} is not in the store"
            yield _of_blob(graph, "missing", digest, message)
    chosen = found if sample is None or sample >= len(found) else random.sample(found, sample)
    tally.all_blobs += len(chosen)
    tally.all_bytes += sum(content.size for content in chosen)
    async for finding in _hashed(blobs, graph, chosen, tally, tick):
        yield finding


async def _hashed(
    blobs: Blobs, graph: Graph, chosen: Iterable[Content], tally: Tally, tick: Callable[[], None]
) -> AsyncIterator[Finding]:
    """Read `AT_ONCE` blobs at a time."""
    remaining = iter(chosen)
    running: set[asyncio.Task[Finding | None]] = set()
    try:
        while True:
            for content in islice(remaining, AT_ONCE - len(running)):
                running.add(asyncio.create_task(_one(blobs, graph, content, tally), name="verify.blob"))
            if not running:
                return
            done, running = await asyncio.wait(running, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            tick()
            for task in done:
                if (finding := task.result()) is not None:
                    yield finding
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _one(blobs: Blobs, graph: Graph, content: Content, tally: Tally) -> Finding | None:
    key, expected = keys.blob(graph.project, content.digest), graph.size(content.digest)
    size, digest = content.size, hashlib.sha256()
    if expected is not None and expected != size:
        tally.blobs += 1
        return _of_blob(graph, "size", content.digest, f"{content.digest} has {size} bytes instead of {expected}")
    at = 0
    try:
        while at < size:
            piece = await blobs.get(key, start=at, length=min(PIECE, size - at))
            if not piece:
                break
            await offload(digest.update, piece)
            at += len(piece)
            tally.bytes += len(piece)
    except Missing:
        if graph.holds(content.digest):
            return _of_blob(graph, "missing", content.digest, f"{content.digest} is not in the store any more")
        return None  # it was collected meanwhile
    tally.blobs += 1
    if digest.hexdigest() == digest_hex(content.digest):
        return None
    return _of_blob(graph, "damaged", content.digest, f"{content.digest} has other bytes: sha256 {digest.hexdigest()}")


def _of_blob(graph: Graph, kind: Kind, digest: str, message: str) -> Finding:
    needed = graph.holds(digest)
    return Finding(
        kind=kind,
        project=graph.project,
        name=digest,
        key=keys.blob(graph.project, digest),
        message=message,
        remedy="restore this object from a backup, or store the same file again"
        if needed
        else "nothing refers to it: 'marsam upkeep gc --delete' takes it away",
        dependents=graph.dependents(digest),
    )


async def _is_there(blobs: Blobs, key: str) -> bool:
    try:
        await blobs.stat(key)
    except Missing:
        return False
    return True
