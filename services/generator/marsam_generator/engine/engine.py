"""One base in memory: text encoding, the step loop and decoding, joined for an asyncio caller.

Threads of each kind, so that the event loop only passes messages: one for each set of text encoders (`reader`), the
step loop's own and its lanes, a small pool that encodes and decodes pictures (`coder`), and one that makes looks
(`looker`).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import torch

from marsam.core.errors import Internal
from marsam.diffusion.adapter.net import Adapter
from marsam.diffusion.sampling import Picture
from marsam.diffusion.spec import Components, Family
from marsam_generator.engine.bank import AdapterBank, PreparedAdapter
from marsam_generator.engine.coder import Coder, Start
from marsam_generator.engine.ending import on, stated
from marsam_generator.engine.forwards import Denoiser
from marsam_generator.engine.lanes import Lanes
from marsam_generator.engine.looker import Looker
from marsam_generator.engine.loop import StepLoop
from marsam_generator.engine.reader import Reader
from marsam_generator.engine.site import crowded
from marsam_generator.engine.stepper import Cut, Stepper, Tick
from marsam_generator.engine.width import Widths
from marsam_generator.engine.work import (
    Denoised,
    Event,
    Failed,
    Glimpsed,
    Looked,
    Order,
    Previews,
    Stepped,
    Terms,
)

BASE = "base"
"""The name of the base's own denoiser among an engine's denoisers."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Pictures that one caller wants; `adapters` are keys of the denoiser's bank."""

    id: str
    pictures: Sequence[Picture]
    denoiser: str = BASE
    adapters: Mapping[str, float] = field(default_factory=dict)
    start: Start | None = None
    terms: Terms = field(default_factory=Terms)
    previews: Previews | None = None


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Steps done over all pictures, of all; `rows` shared the forward of the last. `eta` predicts the seconds until the
    last picture, 0 when unknown."""

    done: int
    of: int
    rows: int
    eta: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A finished picture: `pixels` (H, W, 3) uint8 on the CPU, and the seconds that decoding took."""

    index: int
    pixels: torch.Tensor
    decode_seconds: float


@dataclass(frozen=True, kw_only=True)
class Denoising:
    """Monotonic times of the first and the last tick that served the drawing, and the seconds until its text was
    encoded."""

    first: float
    last: float
    encode_seconds: float = 0.0


class Engine:
    """Owns its threads; `close` ends them. Methods are called from one event loop."""

    def __init__(
        self,
        *,
        name: str,
        family: Family,
        parts: Components,
        lanes: int,
        widths: Widths,
        observe: Callable[[Tick], None],
        cut: Callable[[Cut], None] = lambda cut: None,
    ) -> None:
        self.parts = parts
        self._family = family
        self._readers = {BASE: Reader(family, parts)}
        self._coders = {BASE: Coder(family, parts)}
        self._coding = ThreadPoolExecutor(lanes, thread_name_prefix="marsam-coder")
        self._looker = Looker()
        self._denoisers = {BASE: _denoiser(parts)}  # changed between ticks only
        stepper = Stepper(
            family=family,
            denoisers=self._denoisers,
            device=parts.device,
            lanes=Lanes(lanes),
            widths=widths,
            observe=observe,
            cut=cut,
        )
        self._loop = StepLoop(name=name, stepper=stepper)

    def bank(self, denoiser: str = BASE) -> AdapterBank:
        """The bank of a denoiser: read it freely, change it through `install` and `evict`."""
        return self._denoisers[denoiser].bank

    @property
    def denoisers(self) -> tuple[str, ...]:
        """Names of the denoisers in memory."""
        return tuple(self._denoisers)

    @property
    def bank_bytes(self) -> int:
        """Bytes of the adapters of all denoisers, with their shares of text encoders."""
        return sum(denoiser.bank.size_bytes for denoiser in list(self._denoisers.values()))

    async def add_denoiser(self, name: str, parts: Components) -> None:
        """Put a fully tuned denoiser beside the base's own, with text encoders and an image coder of its own where
        `parts` has such. It is drawn with by its own facts."""
        denoiser = _denoiser(parts)
        if parts.text:
            self._readers[name] = Reader(self._family, parts)
        if parts.image_coder is not None:
            self._coders[name] = Coder(self._family, parts)
        await asyncio.wrap_future(self._loop.between(lambda: self._denoisers.update({name: denoiser})))

    async def drop_denoiser(self, name: str) -> None:
        """Forget a fully tuned denoiser and its adapters. Nothing may be drawing with it."""
        for key in self.bank(name).resident:  # text encoders that are the base's stay, and go on without them
            await self._reader(name).evict(_reading(name, key))
        await asyncio.wrap_future(self._loop.between(lambda: self._denoisers.pop(name, None)))
        self._coders.pop(name, None)
        if (reader := self._readers.pop(name, None)) is not None:
            reader.close()

    def prepare(self, key: str, adapter: Adapter, *, denoiser: str = BASE) -> PreparedAdapter:
        """Check an adapter against the denoiser and the text encoders that it changes. May run on any thread. Raises as
        `AdapterBank.prepare`, and `Invalid` for a layer where pictures have no rows of their own."""
        for layer in adapter.pairs:
            if layer in self._family.facts.crowded:
                raise crowded(layer)
        text = self._reader(denoiser).prepare(_reading(denoiser, key), adapter)
        return replace(self.bank(denoiser).prepare(key, adapter), text=text)

    async def install(self, adapter: PreparedAdapter, *, denoiser: str = BASE) -> None:
        """Make a prepared adapter usable, between two ticks."""
        reader = self._reader(denoiser)
        await reader.install(adapter.text)
        try:
            await asyncio.wrap_future(self._loop.between(lambda: self.bank(denoiser).install(adapter)))
        except BaseException:
            await reader.evict(_reading(denoiser, adapter.key))
            raise

    async def evict(self, key: str, *, denoiser: str = BASE) -> None:
        """Take an adapter out of the banks. Nothing may be drawing with it."""
        await self._reader(denoiser).evict(_reading(denoiser, key))
        await asyncio.wrap_future(self._loop.between(lambda: self.bank(denoiser).evict(key)))

    def _reader(self, denoiser: str) -> Reader:
        return self._readers.get(denoiser, self._readers[BASE])

    async def draw(self, drawing: Drawing) -> AsyncGenerator[Progress | Looked | Drawn | Denoising, None]:
        """Draw; yields progress and looks, each picture when it is ready (in any order), and the times of denoising at
        the end.

        Raises what stopped the drawing. Closing this generator frees its places before the next tick; text and pictures
        that are being encoded by then are encoded to their end.
        """
        self.bank(drawing.denoiser).check(drawing.adapters)
        use = {_reading(drawing.denoiser, key): weight for key, weight in drawing.adapters.items()}
        coder = self._coders.get(drawing.denoiser, self._coders[BASE])
        caller = asyncio.get_running_loop()
        began = time.monotonic()
        conditional, unconditional = await self._reader(drawing.denoiser).read(drawing.pictures, use)
        ground = None
        if (start := drawing.start) is not None:
            ground = await on(self._coding, lambda: coder.ground(start))
        encode_seconds = time.monotonic() - began
        events: asyncio.Queue[Event | Looked | Drawn | Exception] = asyncio.Queue()
        order = Order(
            id=drawing.id,
            denoiser=drawing.denoiser,
            pictures=drawing.pictures,
            conditional=conditional,
            unconditional=unconditional,
            adapters=drawing.adapters,
            ground=ground,
            terms=drawing.terms,
            sink=lambda event: _pass_on(caller, events, event),
            look_every=drawing.previews.every_steps if drawing.previews else 0,
        )
        decoding: set[asyncio.Task[None]] = set()
        looks = await self._looker.begin(coder, drawing.pictures, drawing.previews, events.put_nowait)

        async def decode(event: Denoised) -> None:
            try:
                events.put_nowait(await on(self._coding, lambda: _decode(coder, event, drawing.start)))
            except Exception as error:
                events.put_nowait(stated(error))

        self._loop.submit(order)
        missing = len(drawing.pictures)
        first = last = 0.0
        try:
            while missing:
                match await events.get():
                    case Stepped() as step:
                        first, last = first or step.began, time.monotonic()
                        yield Progress(done=step.done, of=step.of, rows=step.rows)
                    case Glimpsed() as glimpse:
                        looks.take(glimpse)
                    case Looked() as look:
                        yield look
                    case Denoised() as clean:
                        looks.end(clean.index)
                        task = asyncio.create_task(decode(clean), name="engine.decode")
                        decoding.add(task)
                        task.add_done_callback(decoding.discard)
                    case Drawn() as picture:
                        missing -= 1
                        yield picture
                    case Failed() as failed:
                        raise failed.error
                    case Exception() as error:
                        raise error
            yield Denoising(first=first, last=last, encode_seconds=encode_seconds)
        finally:
            self._loop.cancel(drawing.id)
            looks.close()
            for task in decoding:
                task.cancel()

    async def close(self) -> None:
        """End every thread; what is being drawn fails with `Unavailable`."""
        await asyncio.to_thread(self._loop.close)
        for reader in self._readers.values():
            reader.close()
        self._looker.close()
        self._coding.shutdown(wait=False, cancel_futures=True)


def _denoiser(parts: Components) -> Denoiser:
    if parts.denoiser is None:
        raise Internal("an engine draws with a denoiser, and the model has none")
    return Denoiser(module=parts.denoiser, bank=AdapterBank(parts.denoiser), facts=parts.facts)


def _decode(coder: Coder, event: Denoised, start: Start | None) -> Drawn:
    began = time.monotonic()
    pixels = coder.picture(event.latent, start)
    return Drawn(index=event.index, pixels=pixels, decode_seconds=time.monotonic() - began)


def _reading(denoiser: str, key: str) -> str:
    """An adapter's key among those of text encoders, which several denoisers may share."""
    return f"{denoiser} {key}"


def _pass_on(
    caller: asyncio.AbstractEventLoop, events: "asyncio.Queue[Event | Looked | Drawn | Exception]", event: Event
) -> None:
    caller.call_soon_threadsafe(events.put_nowait, event)
