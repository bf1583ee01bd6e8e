"""Runs as the service shows them: spec, history, progress. Reads the store; keeps in memory only what cannot change."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marsam.catalog.runs import RunSpec
from marsam.core.clock import Clock
from marsam.core.errors import Missing
from marsam.core.memory import make_room
from marsam.core.names import format_name
from marsam.core.records import load
from marsam.jobs.heads import gather_heads
from marsam.jobs.index import Index
from marsam.jobs.progress import read_events, read_heartbeat
from marsam.jobs.states import Transition
from marsam.jobs.store import JobStore
from marsam.rpc.server.settings import Address
from marsam.store import keys
from marsam.store.blobs import Blobs, names
from marsam.store.numbered import NumberedLog
from marsam.telemetry import Meter

_SPECS_KEPT = 4096
_HISTORIES_KEPT = 256
"""A finished run's history holds its loss curve: some 30 KB in memory."""


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One run at one moment. `progress` is what its last attempt told last; empty before it told anything."""

    spec: RunSpec
    history: tuple[Transition, ...]
    progress: Mapping[str, Any]

    @property
    def head(self) -> Transition:
        """Where the run stands."""
        return self.history[-1]

    @property
    def model(self) -> str:
        """The published model's resource name; empty until there is one."""
        return str(self.head.detail.get("model", ""))


class Runs:
    """The runs of every project in one store."""

    def __init__(self, blobs: Blobs, clock: Clock, *, meter: Meter | None = None) -> None:
        self.blobs = blobs
        self.clock = clock
        self._meter = meter
        self._stores: dict[str, JobStore] = {}
        self._indexes: dict[str, Index] = {}
        self._specs: dict[str, RunSpec] = {}
        self._histories: dict[str, tuple[Transition, ...]] = {}
        self._last_words: dict[tuple[str, int], Mapping[str, Any]] = {}

    def store(self, project: str) -> JobStore:
        """The jobs of one project."""
        if project not in self._stores:
            self._stores[project] = JobStore(self.blobs, project, "runs", self.clock, meter=self._meter)
        return self._stores[project]

    async def projects(self) -> list[str]:
        """Every project that has anything in the store."""
        return await names(self.blobs, keys.projects(), folders=True)

    async def index(self, project: str) -> Index:
        """The project's list of runs, as of now."""
        if project not in self._indexes:
            self._indexes[project] = Index(self.store(project))
        index = self._indexes[project]
        await index.refresh()
        return index

    async def spec(self, project: str, run_id: str) -> RunSpec:
        """What the run was asked to do. Raises Missing (JOB_NOT_FOUND)."""
        name = format_name("run", project, run_id)
        if name not in self._specs:
            make_room(self._specs, _SPECS_KEPT)
            self._specs[name] = load(RunSpec, await self.store(project).spec(run_id), what=name)
        return self._specs[name]

    async def current(self, project: str, run_id: str) -> RunSpec:
        """What the run's next attempt is to do: its order, with what was changed when it was resumed."""
        spec, history = await self.spec(project, run_id), await self.history(project, run_id)
        return spec.as_changed(entry.detail for entry in history)

    async def history(self, project: str, run_id: str, *, until: int = 0) -> tuple[Transition, ...]:
        """Every transition, oldest first; only those not seen before are read, and none when the run's last one is
        known to be number `until`. Raises Missing (JOB_NOT_FOUND).
        """
        name = format_name("run", project, run_id)
        known = self._histories.get(name, ())
        if until and len(known) >= until:
            return known
        log = NumberedLog(self.blobs, keys.job_log(project, "runs", run_id))
        new = [load(Transition, data, what=f"transition of {name}") for data in await log.read_all(len(known) + 1)]
        if not known and not new:
            await self.store(project).head(run_id)  # says what is missing, with the nearest ids
        if new:
            make_room(self._histories, _HISTORIES_KEPT)
            known = self._histories[name] = (*known, *new)
        return known

    async def view(self, project: str, run_id: str, *, until: int = 0) -> RunView:
        """The whole run, as of now, or as of transition `until`, if that is known to be the last one. Raises Missing
        (JOB_NOT_FOUND).
        """
        history = await self.history(project, run_id, until=until)
        spec = await self.spec(project, run_id)
        # What an ended run told last stays what it is.
        final = format_name("run", project, run_id), len(history)
        progress = self._last_words.get(final) if until else None
        if progress is None:
            progress = await self.progress(project, run_id, history[-1].attempt)
            if history[-1].state.terminal:
                make_room(self._last_words, _HISTORIES_KEPT)
                self._last_words[final] = progress
        return RunView(spec=spec.as_changed(entry.detail for entry in history), history=history, progress=progress)

    async def progress(self, project: str, run_id: str, attempt: int) -> Mapping[str, Any]:
        """What attempt `attempt` told last; empty when it told nothing yet."""
        if attempt == 0:
            return {}
        beat = await read_heartbeat(self.store(project), run_id, attempt)
        return beat.payload if beat is not None else {}

    async def result(self, project: str, run_id: str, attempt: int) -> Mapping[str, Any] | None:
        """What attempt `attempt` left as its result, None when it left none: {"model": name, "metrics": {...}}."""
        found = await self._record(project, run_id, attempt, "result.json")
        return found if found is not None and isinstance(found.get("model"), str) else None

    async def failure(self, project: str, run_id: str, attempt: int) -> Mapping[str, Any] | None:
        """What attempt `attempt` said of its failure: {"reason", "message", "remedy", …}; None when it said nothing."""
        return await self._record(project, run_id, attempt, "failure.json")

    async def preview_digests(self, project: str, run_id: str) -> set[str]:
        """Digests of every picture that the run's attempts have shown."""
        store = self.store(project)
        attempts = (await self.history(project, run_id))[-1].attempt
        found = set()
        for attempt in range(1, attempts + 1):
            events, _ = await read_events(store, run_id, attempt)
            found |= {file["digest"] for event in events if event.get("kind") == "preview" for file in event["files"]}
        return found

    async def scrape_targets(self, host: str) -> dict[str, str]:
        """host:port of the metrics of every run that tells a port, by run name."""
        found = {}
        for project in await self.projects():
            store = self.store(project)
            for run_id, head in (await gather_heads(store, await store.open_ids())).items():
                port = (await self.progress(project, run_id, head.attempt)).get("metrics_port")
                if port:
                    found[format_name("run", project, run_id)] = str(Address(host=host, port=int(port)))
        return found

    async def _record(self, project: str, run_id: str, attempt: int, name: str) -> Mapping[str, Any] | None:
        try:
            found = json.loads(await self.blobs.get(keys.attempt_file(project, "runs", run_id, attempt, name)))
        except (Missing, ValueError):
            return None
        return found if isinstance(found, dict) else None
