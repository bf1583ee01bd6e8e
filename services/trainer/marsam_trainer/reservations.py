"""Ids of models to be: each belongs to one run (or import) at a time, from its admission on.

The holders of an id are a numbered log, so of two that ask at once one is told so. An entry stands until its run is
over: without a model the id is free then, nothing has to be given back, and a run that is tried again holds it still.
Every attempt writes an entry of its own before it works, which fences out whoever looked before that.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from marsam.catalog.repository import load_model
from marsam.core.errors import Conflict, Exists, Missing, Precondition
from marsam.core.ids import new_ulid
from marsam.core.names import format_name, parse
from marsam.core.records import dump, load
from marsam.store import keys
from marsam.store.numbered import NumberedLog
from marsam_trainer.runs import Runs

_TRIES = 20
_BEING_MADE_S = 60.0
"""For so long, by the store's clock, the entry of a run or import that is not there yet counts as one that comes."""

_REMEDY = "choose another id, or leave it empty"


@dataclass(frozen=True, kw_only=True)
class Holder:
    """One entry: `holder` is the resource name of a run, or of the model that is being imported."""

    SCHEMA: ClassVar[str] = "marsam.reservation/1"

    holder: str
    attempt: int
    writer_id: str
    at: datetime


class Reservations:
    """The ids of models to be, in every project."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._blobs = runs.blobs
        self._clock = runs.clock

    async def check(self, project: str, model_id: str, *, holder: str = "") -> None:
        """Raise when `model_id` is not `holder`'s to take (nor anybody's, without one). Changes nothing.

        Raises Exists: MODEL_ID_RESERVED naming the run that holds it, MODEL_EXISTS; Precondition (MODEL_DELETED).
        """
        head = await self._log(project, model_id).head()
        if head is not None:
            await self._refuse(project, model_id, *head, holder=holder)
        await self._refuse_used(project, model_id, holder=holder)

    async def take(self, project: str, model_id: str, *, holder: str, attempt: int = 0) -> None:
        """Reserve `model_id` for the run `holder` in `attempt`; again is fine. Raises as `check`."""
        log = self._log(project, model_id)
        for _ in range(_TRIES):
            head = await log.head()
            if head is not None:
                entry = await self._refuse(project, model_id, *head, holder=holder)
                if (entry.holder, entry.attempt) == (holder, attempt):
                    break
            mine = Holder(holder=holder, attempt=attempt, writer_id=new_ulid(self._clock), at=self._clock.now())
            try:
                await log.append(head[0] if head else 0, dump(mine))
                break
            except Conflict:
                continue
        else:
            raise Conflict(f"many want the model id '{model_id}' at once", reason="MODEL_ID_CONTENDED")
        # After the reservation: from here on nobody else publishes it.
        await self._refuse_used(project, model_id, holder=holder)

    async def _refuse(self, project: str, model_id: str, seq: int, data: bytes, *, holder: str) -> Holder:
        """Return the entry, which does not keep `holder` from the id. Raises Exists (MODEL_ID_RESERVED)."""
        entry = load(Holder, data, what=f"reservation of {model_id}")
        if entry.holder != holder and await self._stands(project, model_id, seq, entry):
            name = format_name("model", project, model_id)
            raise Exists(
                f"{entry.holder} will publish {name}" if entry.holder != name else f"{name} is being imported",
                reason="MODEL_ID_RESERVED",
                resource=entry.holder,
                remedy=_REMEDY,
            )
        return entry

    async def _stands(self, project: str, model_id: str, seq: int, entry: Holder) -> bool:
        if entry.holder.split("/")[2] == "runs":
            try:
                return not (await self._runs.store(project).head(parse(entry.holder, "run").id)).state.terminal
            except Missing:
                pass
        key = f"{keys.reservation(project, model_id)}/{keys.number(seq)}"
        return (await self._blobs.stat(key)).age_s < _BEING_MADE_S

    async def _refuse_used(self, project: str, model_id: str, *, holder: str) -> None:
        """Raise when a model other than the one that `holder` itself published has, or had, the id.

        Of an import its publication tells, which knows its own model from another's.
        """
        name = format_name("model", project, model_id)
        try:
            await self._blobs.stat(keys.tombstone(project, "models", model_id))
        except Missing:
            pass
        else:
            raise Precondition(
                f"{name} was deleted, and ids are not used twice",
                reason="MODEL_DELETED",
                resource=name,
                remedy=_REMEDY,
            )
        if holder == name:
            return
        try:
            there = await load_model(self._blobs, name)
        except Missing:
            return
        if there.lineage.run != holder or not holder:
            raise Exists(f"{name} exists already", reason="MODEL_EXISTS", resource=name, remedy=_REMEDY)

    def _log(self, project: str, model_id: str) -> NumberedLog:
        return NumberedLog(self._blobs, keys.reservation(project, model_id))
