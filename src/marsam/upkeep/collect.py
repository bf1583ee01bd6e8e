"""Collecting what nothing refers to, beside services that go on writing.

Why nothing that is in use is ever deleted:

* A blob goes only if it is older than the grace period by the store's own clock, and no record refers to it. Both are
  looked at again after the blob was *condemned* by a mark, and right before it is deleted: first its age, then every
  record that is new since.
* Whoever stores bytes (`put_blob`) writes them again when those in the store are older than `FRESH_S`; so they are
  young from then on, and the collector has the grace period less `FRESH_S` to learn of the record that will refer to
  them. A writer that comes later than the look at the age, and so might see its bytes deleted, finds the mark after its
  write: it waits until the mark is gone and looks whether its bytes are still there. Marks that a dead collector left
  expire by the store's clock, and a collector never deletes under a mark that is older than half that life.
* Records are immutable: what one refers to is known once it was read. A record that cannot be read, is of an unknown
  kind, or is a live job whose input was deleted, ends the collection before anything is touched.
* Checkpoints go only of runs that are over, never the ones a resume would begin from, mark first, and only if the run's
  log did not move since they were listed.

A collector that is killed leaves marks and nothing else; once they are expired another one takes them away. Several
may run at once: every mark is its collector's own.

Not covered: importing or publishing a *full* model takes over blobs of its base by name. Who deletes that base from
the registry in the same minutes takes them away with it; of a run that is not over this is noticed
(UPKEEP_INPUT_MISSING).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, TypeVar

from marsam.core.errors import Invalid, Missing
from marsam.core.ids import new_ulid
from marsam.store import keys
from marsam.store.blobs import Blobs, names, walk
from marsam.store.content import FRESH_S, MARK_LIFE_S
from marsam.upkeep.checkpoints import old_checkpoints, still_old
from marsam.upkeep.contents import contents
from marsam.upkeep.graph import Graph
from marsam.upkeep.records import AT_ONCE

T = TypeVar("T")

GRACE = timedelta(hours=24)
LEAST_GRACE = timedelta(seconds=2 * FRESH_S)

BATCH = 512
"""Blobs that are condemned and deleted together: the new records are looked at once for all of them."""

Kind = Literal["blob", "checkpoint", "probe", "mark", "pulse"]


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """What may go. `project` is '' for what belongs to none; `run` is the run of a checkpoint, `seq` where its log
    stood. `done`: it was deleted; `kept` says why it was not, though that was asked.
    """

    kind: Kind
    project: str
    name: str
    keys: tuple[str, ...]
    size: int
    run: str = ""
    seq: int = 0
    done: bool = False
    kept: str = ""


class Collector:
    """Finds what nothing refers to and is older than `older_than`; deletes it if told to. See the module's words."""

    def __init__(self, blobs: Blobs, *, older_than: timedelta = GRACE) -> None:
        if older_than < LEAST_GRACE:
            hours = LEAST_GRACE.total_seconds() / 3600
            raise Invalid(
                f"what is younger than {hours:g} hours may be about to be referred to", field="--older-than",
                reason="UPKEEP_GRACE", remedy=f"give {hours:g}h or more",
            )  # fmt: skip
        self._id = new_ulid()
        self._blobs = blobs
        self._older_than = older_than
        self._graphs: dict[str, Graph] = {}
        self._now: datetime | None = None

    async def look(self) -> int:
        """Read every record of every project; return how many there are. Raises as `Graph.check`."""
        for project in await names(self._blobs, keys.projects(), folders=True):
            graph = self._graphs[project] = Graph(self._blobs, project)
            await graph.read()
            graph.check()
        return sum(graph.records for graph in self._graphs.values())

    async def collect(self, *, delete: bool) -> AsyncIterator[Garbage]:
        """Yield everything that may go; with `delete` after it went, or was kept after all. `look` comes first."""
        waiting: list[Garbage] = []
        async for each in self._all():
            if not delete:
                yield each
                continue
            if waiting and (
                len(waiting) == BATCH or (each.kind, each.project) != (waiting[0].kind, waiting[0].project)
            ):
                for gone in await self._delete(waiting):
                    yield gone
                waiting = []
            waiting.append(each)
        if waiting:
            for gone in await self._delete(waiting):
                yield gone

    async def _all(self) -> AsyncIterator[Garbage]:
        for project, graph in self._graphs.items():
            async for content in contents(self._blobs, project):
                if not graph.holds(content.digest):
                    key = keys.blob(project, content.digest)
                    if await self._is_old(key, content.modified):
                        yield Garbage(kind="blob", project=project, name=content.digest, keys=(key,), size=content.size)
            async for old in old_checkpoints(self._blobs, project):
                if await self._is_old(old.objects[0][0], old.modified):
                    found = tuple(key for key, _ in old.objects)
                    yield Garbage(
                        kind="checkpoint", project=project, name=found[0].rpartition("/")[0], keys=found,
                        size=old.size, run=old.run, seq=old.seq,
                    )  # fmt: skip
            async for each in self._aged("mark", project, keys.condemned_blobs(project), MARK_LIFE_S):
                yield each
            async for each in self._aged("pulse", project, keys.drawings(project), self._older_than.total_seconds()):
                yield each
        async for each in self._aged("probe", "", keys.probes(), self._older_than.total_seconds()):
            yield each

    async def _aged(self, kind: Kind, project: str, folder: str, age_s: float) -> AsyncIterator[Garbage]:
        async for key in walk(self._blobs, folder):
            try:
                stat = await self._blobs.stat(key)
            except Missing:
                continue
            if stat.age_s > age_s:
                yield Garbage(kind=kind, project=project, name=key, keys=(key,), size=stat.size)

    async def _is_old(self, key: str, modified: datetime) -> bool:
        """Whether `modified`, which the store said of `key`, was the grace period before its own now (or a while ago:
        the time is asked once, and again only of what is about to be deleted).
        """
        if self._now is None:
            try:
                self._now = (await self._blobs.stat(key)).now
            except Missing:
                return False
        return self._now - modified > self._older_than

    async def _delete(self, some: Sequence[Garbage]) -> list[Garbage]:
        match some[0].kind:
            case "blob":
                return await self._delete_blobs(self._graphs[some[0].project], some)
            case "checkpoint":
                return [await self._delete_checkpoint(each) for each in some]
            case "mark" | "probe" | "pulse":
                await self._blobs.delete([key for each in some for key in each.keys])
                return [replace(each, done=True) for each in some]

    async def _delete_checkpoint(self, each: Garbage) -> Garbage:
        if not await still_old(self._blobs, each.project, each.run, each.seq):
            return replace(each, kept="the run was resumed")
        for key in each.keys:  # one by one, the mark first
            await self._blobs.delete([key])
        return replace(each, done=True)

    async def _delete_blobs(self, graph: Graph, some: Sequence[Garbage]) -> list[Garbage]:
        began = time.monotonic()
        kept: dict[str, str] = {}
        marks: list[str] = []
        settled = True
        try:
            await _spread(some, lambda each: self._condemn(each, marks))
            for each in await _spread(some, self._too_young):
                kept |= each
            await graph.read()
            graph.check()
            kept |= {each.name: "a record refers to it by now" for each in some if graph.holds(each.name)}
            if time.monotonic() - began > MARK_LIFE_S / 2:
                kept |= {each.name: "the store is too slow: looking again took too long" for each in some}
            settled = False
            await self._blobs.delete([key for each in some if each.name not in kept for key in each.keys])
            settled = True
        finally:
            if settled:  # otherwise the store may still be deleting: the marks stay until they expire
                await self._blobs.delete(marks)
        return [replace(each, done=each.name not in kept, kept=kept.get(each.name, "")) for each in some]

    async def _condemn(self, each: Garbage, marks: list[str]) -> None:
        mark = keys.condemned_by(each.project, each.name, self._id)
        marks.append(mark)  # first: one whose writing was cut off may be there all the same
        await self._blobs.put(mark, b"")

    async def _too_young(self, each: Garbage) -> dict[str, str]:
        try:
            stat = await self._blobs.stat(each.keys[0])
        except Missing:
            return {each.name: "it is gone already"}
        return {} if stat.age_s > self._older_than.total_seconds() else {each.name: "it was stored again"}


async def _spread(some: Sequence[Garbage], act: Callable[[Garbage], Awaitable[T]]) -> list[T]:
    """Act on each, some at a time."""
    found: list[T] = []
    for at in range(0, len(some), AT_ONCE):
        found += await asyncio.gather(*(act(each) for each in some[at : at + AT_ONCE]))
    return found
