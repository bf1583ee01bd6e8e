"""What is known of generations that are not made here: ids of their requests, their records, their signs of life."""

from marsam.api.generator.v1 import generator_pb2
from marsam.catalog.generations import GenerationRecord
from marsam.catalog.repository import load_generation
from marsam.core.clock import Clock
from marsam.core.errors import Missing, Unavailable
from marsam.core.ids import new_ulid
from marsam.core.names import format_name, parse
from marsam.jobs.requests import recall, remember
from marsam.store.blobs import Blobs
from marsam_generator import wire
from marsam_generator.pulses import BEAT_S, Pulses

_SCOPE = "Generate"


class Elsewhere:
    """The store's view."""

    def __init__(self, blobs: Blobs, pulses: Pulses, clock: Clock) -> None:
        self._blobs = blobs
        self._pulses = pulses
        self._clock = clock

    async def known(self, request: generator_pb2.GenerateRequest) -> str | None:
        """The generation that the request's id stands for. Asked first: its models may be gone by now."""
        project = parse(request.parent, "project", field="parent").project
        ulid = await recall(
            self._blobs, project, scope=_SCOPE, request_id=request.request_id, content=_content(request)
        )
        return None if ulid is None else format_name("generation", project, ulid)

    async def name(self, request: generator_pb2.GenerateRequest) -> tuple[str, bool]:
        """The generation's name, and whether it is new: a request id stands for the first call's name for ever."""
        project = parse(request.parent, "project", field="parent").project
        ulid, fresh = new_ulid(self._clock), True
        if request.request_id:
            ulid, fresh = await remember(
                self._blobs,
                project,
                scope=_SCOPE,
                request_id=request.request_id,
                content=_content(request),
                result=ulid,
                clock=self._clock,
            )
        return format_name("generation", project, ulid), fresh

    async def made(self, name: str) -> GenerationRecord | None:
        """The record of a generation that succeeded; None when it is to be made. Raises `Unavailable`
        (GENERATION_IN_PROGRESS) while another replica makes it."""
        # In this order: who makes it writes the record before the sign of life goes.
        found = await self._pulses.of(name)
        record = await self.ended(name)
        if record is not None and record.state == "succeeded":
            return record
        if found is None or not found[1]:
            return None
        pulse, _ = found
        raise Unavailable(
            f"{name} is being made by another replica ({pulse.step} of {pulse.steps} steps)",
            reason="GENERATION_IN_PROGRESS",
            resource=name,
            remedy="ask again with the same request_id, or look with GetGeneration",
            retry_after_s=BEAT_S,
        )

    async def ended(self, name: str) -> GenerationRecord | None:
        """The record of a generation that ended."""
        try:
            return await load_generation(self._blobs, name)
        except Missing:
            return None

    async def find(self, name: str) -> generator_pb2.Generation:
        """A generation, as its record or its last sign of life has it. Raises `Missing`."""
        made = await self.ended(name)
        if made is not None and made.state == "succeeded":
            return wire.generation(made)
        found = await self._pulses.of(name)
        if made is not None and (found is None or not found[1]):
            return wire.generation(made)
        if found is None:
            return wire.generation(await load_generation(self._blobs, name))
        pulse, alive = found
        request = wire.request_of(pulse.request)
        progress = generator_pb2.StepProgress(step=pulse.step, steps=pulse.steps)
        told = wire.unfinished(name, request, pulse.create_time, progress)
        if not alive:
            told.state = generator_pb2.GENERATION_STATE_FAILED
            told.error_reason = "GENERATION_LOST"
            told.error_message = "the replica that made it is gone; the same request_id makes it again, with its seed"
        return told

    async def cancel(self, name: str) -> None:
        """Have whoever makes a generation end it; one that ended stays what it is. Raises `Missing`."""
        if await self.ended(name) is None:
            if await self._pulses.of(name) is None:
                await load_generation(self._blobs, name)  # says that it is not there, unless it ended just now
            await self._pulses.ask_to_end(name)


def _content(request: generator_pb2.GenerateRequest) -> bytes:
    """What is asked, as a request id is compared by."""
    return wire.without_id(request).SerializeToString(deterministic=True)
