"""A Generate call from its request to its record: checked, admitted, drawn, streamed, kept."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping

from marsam.api.generator.v1 import generator_pb2
from marsam.catalog.files import FileRef
from marsam.catalog.generations import DrawnPicture, GenerationRecord, Timings
from marsam.core.clock import Clock
from marsam.core.errors import Cancelled, Deadline, MarsamError, Precondition
from marsam.core.names import parse
from marsam.store.blobs import Blobs
from marsam.store.content import put_blob, stream_blob
from marsam.telemetry import Log, Meter, Span, metrics
from marsam_generator import wire
from marsam_generator.attended import attended
from marsam_generator.bases import Bases
from marsam_generator.elsewhere import Elsewhere
from marsam_generator.engine.engine import Denoising, Drawn, Progress
from marsam_generator.engine.work import Looked, Terms
from marsam_generator.engines.contract import Admitted, Commission, DrawingEngine
from marsam_generator.finishing import Finishing
from marsam_generator.images import Images
from marsam_generator.live import Live
from marsam_generator.pulses import Pulses
from marsam_generator.records import failure, save
from marsam_generator.requests import Wanted, check

Messages = AsyncGenerator[generator_pb2.GenerateResponse, None]
_OUTCOMES: Mapping[type[Exception], str] = {Deadline: "deadline", Cancelled: "cancelled"}
_log = Log(__name__)


class Studio:
    """Draws for callers and keeps what it drew. Belongs to one event loop."""

    def __init__(
        self,
        *,
        blobs: Blobs,
        engine: DrawingEngine,
        bases: Bases,
        images: Images,
        finishing: Finishing,
        meter: Meter,
        clock: Clock,
        max_steps: int,
    ) -> None:
        self.engine = engine
        self.images = images
        self.max_steps = max_steps
        self._finishing = finishing
        self._blobs = blobs
        self._bases = bases
        self._meter = meter
        self._clock = clock
        self._pulses = Pulses(blobs, clock)
        self._elsewhere = Elsewhere(blobs, self._pulses, clock)
        self._live: dict[str, tuple[Live, asyncio.Task[None]]] = {}

    def live(self, name: str) -> Live | None:
        """The generation called `name` while it is being made here."""
        live, _ = self._live.get(name, (None, None))
        return live

    async def draw(self, request: generator_pb2.GenerateRequest, *, deadline: float | None) -> Messages:
        """Answer a Generate call; `deadline` is a monotonic time. Closing this generator frees the device within a
        tick, unless the request is detached or somebody else follows it.

        The same request_id again repeats the pictures of the first call, follows it while they are being made here, or
        draws them when they were not: the same name, hence the same seed. Raises what is wrong with the request,
        `Exhausted`, `Deadline`, `Cancelled`, and `Unavailable` while another replica makes them.
        """
        began = time.monotonic()
        known, fresh = await self._elsewhere.known(request), False
        wanted: Wanted | None = None
        while known is None or not await self._is_here(known):
            if known is not None and not fresh and (made := await self._elsewhere.made(known)) is not None:
                async for message in self._repeat(made):
                    yield message
                return
            if wanted is None:
                wanted = await check(
                    request,
                    blobs=self._blobs,
                    bases=self._bases,
                    images=self.images,
                    engine=await self.engine.describe(),
                    max_steps=self.max_steps,
                )
                # Whoever comes with the same id may have given it a name meanwhile, here or elsewhere: looked at again.
                known, fresh = await self._elsewhere.name(request)
            elif known is not None and known not in self._live:
                wanted = wanted if request.HasField("seed") else wanted.with_seed_of(known)
                self._begin(known, wanted, began=began, deadline=deadline)
        async with contextlib.aclosing(self._watch(*self._live[known])) as messages:
            async for message in messages:
                yield message

    async def find(self, name: str) -> generator_pb2.Generation:
        """A generation, whoever makes or made it. Raises `Missing`."""
        if (live := self.live(name)) is not None:
            return wire.unfinished(name, live.wanted.resolved, live.create_time, live.progress)
        return await self._elsewhere.find(name)

    async def cancel(self, name: str) -> None:
        """End a generation, whoever makes it; one that ended stays what it is. Raises `Missing`."""
        if (live := self.live(name)) is not None:
            live.cancelled.set()
        else:
            await self._elsewhere.cancel(name)

    async def close(self, *, patience_s: float, hurried: Callable[[], Awaitable[None]]) -> None:
        """Wait so long for what is detached, or until `hurried`; what is not done by then fails with `Unavailable`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, patience_s)):
                hurry = asyncio.ensure_future(hurried())
                try:
                    while self._live and not hurry.done():
                        waiting = {hurry, *(task for _, task in self._live.values())}
                        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    hurry.cancel()
        left = list(self._live.values())
        for live, task in left:
            live.closing = True
            task.cancel()
        await asyncio.gather(*(task for _, task in left), return_exceptions=True)

    async def _is_here(self, name: str) -> bool:
        """Whether a generation is being made here and may be followed; waits for one that is being given up."""
        while (found := self._live.get(name)) is not None and found[0].leaving:
            await asyncio.wait({found[1]})
        return found is not None

    def _begin(self, name: str, wanted: Wanted, *, began: float, deadline: float | None) -> None:
        live = Live(name=name, wanted=wanted, create_time=self._clock.now())
        work = self._make(live, began=began, deadline=None if live.detached else deadline)
        self._live[name] = (live, asyncio.create_task(work, name="studio.make"))

    async def _watch(self, live: Live, task: "asyncio.Task[None]") -> Messages:
        live.watchers += 1
        try:
            async with contextlib.aclosing(live.follow()) as messages:
                async for message in messages:
                    yield message
        finally:
            live.watchers -= 1
            if not live.watchers and not live.detached:
                live.leaving = True
                # Here and now when the last one leaves, so that the place is free only when the device is.
                task.cancel()
                await asyncio.wait({task})

    async def _make(self, live: Live, *, began: float, deadline: float | None) -> None:
        """Draw, keep, and tell whoever follows; raises nothing."""
        over = asyncio.Event()
        beating = asyncio.create_task(self._pulses.beat(live, over), name="studio.pulse")
        outcome = "failed"
        end: generator_pb2.Done | BaseException
        try:
            record = await self._draw(live, began=began, deadline=deadline)
            end, outcome = wire.done(record), "done"
        except asyncio.CancelledError:
            end = live.why_stopped()
            outcome = "cancelled" if isinstance(end, Cancelled) else "failed"
        except Exception as error:
            if not isinstance(error, MarsamError):  # perhaps nobody follows who would say so
                _log.exception("generation.bug", job=live.name)
            end = error
            outcome = _OUTCOMES.get(type(error), "failed")
        try:
            if isinstance(end, BaseException) and live.accepted is not None:
                await self._keep_failure(live, end, total=time.monotonic() - began)
            over.set()
            await asyncio.wait({beating})
        finally:  # stopped once more, or not: who follows is told
            over.set()
            del self._live[live.name]
            total = time.monotonic() - began
            self._meter.observe(metrics.GENERATION_SECONDS, total, base=live.wanted.base, outcome=outcome)
            live.end(end)

    async def _keep_failure(self, live: Live, end: BaseException, *, total: float) -> None:
        try:
            await save(self._blobs, failure(live, end, total=total))
        except MarsamError as error:
            _log.warning("generation.record_failed", job=live.name, message=str(error))

    async def _draw(self, live: Live, *, began: float, deadline: float | None) -> GenerationRecord:
        wanted = live.wanted
        fingerprint = ""
        decode_seconds, denoising = 0.0, Denoising(first=began, last=began)
        source = self.engine.draw(
            Commission(
                id=live.name,
                model=wanted.model,
                adapters=wanted.adapters,
                pictures=wanted.pictures,
                start=wanted.start,
                terms=Terms(
                    tenant=wanted.resolved.tenant or wanted.project,
                    priority=wanted.resolved.priority,
                    exact=wanted.resolved.reproducibility == generator_pb2.REPRODUCIBILITY_EXACT,
                    deadline=deadline,
                ),
                previews=wanted.previews,
            )
        )
        minded = attended(
            source, live.cancelled, begin_by=deadline, begins=lambda event: not isinstance(event, Admitted)
        )
        async with contextlib.aclosing(minded) as events:
            async for event in events:
                match event:
                    case Admitted():
                        fingerprint = event.fingerprint
                        live.accept(wire.accepted(live.name, wanted, event))
                    case Progress():
                        live.step(
                            generator_pb2.StepProgress(
                                step=event.done, steps=event.of, rows=event.rows, eta_seconds=event.eta
                            )
                        )
                    case Looked():
                        live.look(wire.preview(event))
                    case Drawn():
                        decode_seconds += event.decode_seconds
                        picture, data = await self._keep(live, event, fingerprint)
                        if not live.pictures:
                            waited = time.monotonic() - began
                            self._meter.observe(metrics.GENERATION_FIRST_IMAGE_SECONDS, waited, base=wanted.base)
                        live.picture(picture, data)
                    case Denoising():
                        denoising = event
        record = GenerationRecord(
            name=live.name,
            request=wire.request_fields(wanted.resolved),
            models=wanted.digests,
            pictures=tuple(sorted((picture for picture, _ in live.pictures), key=lambda picture: picture.index)),
            timings=Timings(
                queued=denoising.first - began,
                denoise=denoising.last - denoising.first,
                decode=decode_seconds,
                total=time.monotonic() - began,
                encode=denoising.encode_seconds,
            ),
            fingerprint=fingerprint,
            create_time=live.create_time,
        )
        await save(self._blobs, record)
        return record

    async def _keep(self, live: Live, event: Drawn, fingerprint: str) -> tuple[DrawnPicture, bytes]:
        wanted, picture = live.wanted, live.wanted.pictures[event.index]
        self._meter.observe(metrics.SPAN_SECONDS, event.decode_seconds, span=Span.GENERATE_DECODE.value)
        said = wire.inscription(wanted, event.index)
        told = {"generation": live.name, "fingerprint": fingerprint}
        data = await self._finishing.finish(event.pixels, said, wanted.form, **told)
        stored = await put_blob(self._blobs, wanted.project, data)
        file = FileRef(
            path=f"{event.index:03d}{wanted.form.suffix}",
            digest=stored.digest,
            size=stored.size,
            media_type=wanted.form.media_type,
        )
        kept = DrawnPicture(index=event.index, seed=picture.seed, width=picture.width, height=picture.height, file=file)
        return kept, data

    async def _repeat(self, record: GenerationRecord) -> AsyncIterator[generator_pb2.GenerateResponse]:
        yield generator_pb2.GenerateResponse(
            accepted=generator_pb2.Accepted(name=record.name, resolved=wire.generation(record).request)
        )
        async for part in self.read(record):
            yield (
                generator_pb2.GenerateResponse(image=part)
                if isinstance(part, generator_pb2.ImageHeader)
                else generator_pb2.GenerateResponse(chunk=part)
            )
        yield generator_pb2.GenerateResponse(done=wire.done(record))

    async def read(self, record: GenerationRecord) -> AsyncIterator[generator_pb2.ImageHeader | bytes]:
        """The pictures of a generation: each as a header, then its chunks. Raises `Precondition` for one that has
        none."""
        if record.state != "succeeded":
            raise Precondition(
                f"{record.name} {record.state}: {record.message or record.reason}",
                reason="GENERATION_WITHOUT_PICTURES",
                resource=record.name,
                remedy="call Generate with the same request_id to have it made",
            )
        project = parse(record.name, "generation").project
        for picture in record.pictures:
            yield wire.image_header(picture)
            async for chunk in stream_blob(self._blobs, project, picture.file.digest, chunk=wire.CHUNK):
                yield chunk
