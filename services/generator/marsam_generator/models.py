"""Models in memory: loaded by resource name from the store when first asked for, dropped least recently used first."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from marsam.catalog.models import Model
from marsam.catalog.repository import load_model
from marsam.core.errors import Missing, Precondition
from marsam.diffusion import registry
from marsam.diffusion.adapter import net as adapter_net
from marsam.diffusion.spec import ALL_PARTS, Components, Part
from marsam.diffusion.weights.net import DTYPES
from marsam.store.blobs import Blobs
from marsam.telemetry import Log, Meter, metrics
from marsam_generator.engine.admission import Admission
from marsam_generator.engine.curves import Curves
from marsam_generator.engine.engine import BASE, Engine
from marsam_generator.engine.width import Widths
from marsam_generator.hardware import Hardware, processor
from marsam_generator.loads import Loads
from marsam_generator.residents import Resident, parts_of_its_own, size_of
from marsam_generator.ticks import Ticks
from marsam_generator.trees import Trees

_log = Log(__name__)

_KINDS = ("base", "full", "adapter")


@dataclass(frozen=True, kw_only=True)
class Lease:
    """Models that stay in memory while it is held."""

    engine: Engine
    denoiser: str
    adapters: Sequence[str]


class Library:
    """Every model of this process. Belongs to one event loop; loading happens on threads. Measured curves are kept in
    the folder `curves`, where there is one."""

    def __init__(
        self,
        *,
        blobs: Blobs,
        trees: Trees,
        hardware: Hardware,
        tick_rows: int,
        curves: Path | None = None,
        budget: int,
        admission: Admission,
        meter: Meter,
    ) -> None:
        self.hardware = hardware
        self._blobs = blobs
        self._trees = trees
        self._loads = Loads()
        self._tick_rows = tick_rows
        self._curves = curves
        self._budget = budget
        self._admission = admission
        self._meter = meter
        # Keys nest: an engine "base", in it a denoiser "base full" and an adapter "base denoiser adapter", all digests.
        self._residents: dict[str, Resident] = {}
        self._going: dict[str, asyncio.Task[None]] = {}
        for kind in _KINDS:
            meter.begin(metrics.MODEL_DROPS, kind=kind)
            for result in ("hit", "miss"):
                meter.begin(metrics.MODEL_REQUESTS, kind=kind, result=result)

    @asynccontextmanager
    async def lease(self, model: Model, adapters: Sequence[Model]) -> AsyncIterator[Lease]:
        """Bring a base or fully tuned model and its adapters into memory and keep them there inside the block."""
        root = await self._root(model)
        async with AsyncExitStack() as stack:
            within = [await stack.enter_async_context(self._pinned(root.digest, lambda: self._load_base(root)))]
            engine = within[0].engine
            denoiser = BASE
            if model.digest != root.digest:
                denoiser = model.digest
                key = f"{root.digest} {denoiser}"
                tuned = self._pinned(key, lambda: self._load_full(model, engine, root), *within)
                within.append(await stack.enter_async_context(tuned))
            for adapter in adapters:
                load = self._loader(adapter, engine, denoiser)
                await stack.enter_async_context(self._pinned(_adapter_key(root, denoiser, adapter), load, *within))
            yield Lease(engine=engine, denoiser=denoiser, adapters=[adapter.digest for adapter in adapters])

    def pin(self, model: Model) -> None:
        """Keep a model that is in memory there until it is evicted by name."""
        for one in self._residents.values():
            one.kept = one.kept or one.model.digest == model.digest

    def residents(self) -> list[Resident]:
        """What is in memory."""
        return list(self._residents.values())

    async def evict(self, model: Model) -> None:
        """Take a model out of memory. Raises `Missing` when it is not there, `Precondition` while it draws."""
        found = [key for key, one in self._residents.items() if one.model.digest == model.digest]
        if not found:
            raise Missing(f"{model.name} is not in memory", reason="MODEL_NOT_RESIDENT", resource=model.name)
        for key in found:
            if key not in self._residents:
                continue  # it went with what it lived in
            if self._is_held(key):
                raise Precondition(
                    f"{model.name} is drawing",
                    reason="MODEL_IN_USE",
                    resource=model.name,
                    remedy="try again when it is done",
                )
            await self._drop(key)

    async def close(self) -> None:
        """Take everything out of memory; what is being drawn fails with `Unavailable`."""
        await self._loads.close()
        for key in [key for key in self._residents if " " not in key]:
            await self._drop(key)
        await asyncio.gather(*self._going.values(), return_exceptions=True)

    @asynccontextmanager
    async def _pinned(
        self, key: str, load: Callable[[], Awaitable[Resident]], *within: Resident
    ) -> AsyncIterator[Resident]:
        """Keep a model in memory inside the block; it is loaded into those it lives `within`, which are pinned too.

        Leaving while it loads (a cancel, a deadline) is immediate, and the load goes on: see `Loads`.
        """
        result = "hit" if key in self._residents else "miss"
        while (resident := self._residents.get(key)) is None:
            await self._loads.join(key, lambda: self._take_in(key, load, within))
        self._meter.inc(metrics.MODEL_REQUESTS, kind=resident.model.kind, result=result)
        resident.pins += 1
        resident.uses += 1
        resident.used_at = time.monotonic()
        try:
            await self._trim()
            yield resident
        finally:
            resident.pins -= 1

    async def _take_in(self, key: str, load: Callable[[], Awaitable[Resident]], within: Sequence[Resident]) -> None:
        """Load, and keep what was loaded. What it is loaded into stays, even when everybody who waited has left."""
        for one in within:
            one.pins += 1
        try:
            if (going := self._going.get(key)) is not None:
                await asyncio.wait({going})  # or what came would go with it
            resident = self._residents[key] = await load()
        finally:
            for one in within:
                one.pins -= 1
        self._count(resident.model)

    async def _trim(self) -> None:
        """Drop what was unused for longest until the budget holds; what is pinned stays, however large."""
        while self._held_bytes() > self._budget:
            if self._going:
                await asyncio.wait(set(self._going.values()))  # perhaps that is enough
                continue
            free = [(self._residents[key].used_at, key) for key in self._residents if not self._stays(key)]
            if not free:
                return
            await self._drop(min(free)[1])

    def _held_bytes(self) -> int:
        """What is in memory: bases and tuned models, and all banks of adapters."""
        engines = {id(one.engine): one.engine for one in self._residents.values()}
        models = sum(one.size for one in self._residents.values() if one.model.kind != "adapter")
        return models + sum(engine.bank_bytes for engine in engines.values())

    def _nest(self, key: str) -> dict[str, Resident]:
        """A resident and everything that lives in it."""
        return {inner: one for inner, one in self._residents.items() if inner == key or inner.startswith(f"{key} ")}

    def _is_held(self, key: str) -> bool:
        return any(one.pins for one in self._nest(key).values())

    def _stays(self, key: str) -> bool:
        return any(one.pins or one.kept for one in self._nest(key).values())

    async def _drop(self, key: str) -> None:
        """Forget a model and what lives in it. It goes to its end even when whoever asked for that leaves."""
        resident = self._residents[key]
        for inner in self._nest(key):
            self._meter.inc(metrics.MODEL_DROPS, kind=self._residents.pop(inner).model.kind)
        self._count(resident.model)
        going = self._going[key] = asyncio.create_task(self._let_go(resident), name=f"drop {key}")
        going.add_done_callback(lambda _: self._going.pop(key))
        await asyncio.shield(going)

    async def _let_go(self, resident: Resident) -> None:
        await resident.drop()
        _log.info("model.dropped", model=resident.model.name, bytes=resident.size)
        if self.hardware.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _count(self, changed: Model) -> None:
        for kind in _KINDS:
            size = sum(one.size for one in self._residents.values() if one.model.kind == kind)
            self._meter.set(metrics.MODEL_BYTES, size, kind=kind)
        base = changed.name if changed.kind == "base" else changed.base
        if base is not None:
            count = sum(1 for one in self._residents.values() if one.model.kind == "adapter" and one.model.base == base)
            self._meter.set(metrics.ADAPTERS_LOADED, count, base=base)

    async def _root(self, model: Model) -> Model:
        """The base whose text encoder and image coder `model` shares where it has none of its own."""
        while model.kind == "full" and model.base is not None:
            model = await load_model(self._blobs, model.base)
        return model

    async def _load_base(self, model: Model) -> Resident:
        began = time.monotonic()
        family = registry.family(model.family)
        parts = await self._load_parts(model, ALL_PARTS)
        ticks = Ticks(model, admission=self._admission, meter=self._meter)
        engine = Engine(
            name=model.id,
            family=family,
            parts=parts,
            lanes=self.hardware.lanes,
            widths=Widths(limit=self._tick_rows, kept=self._curves_of(model)),
            observe=ticks.observe,
            cut=ticks.cut,
        )
        seconds = time.monotonic() - began
        self._meter.observe(metrics.MODEL_LOAD_SECONDS, seconds, family=model.family)
        _log.info("model.loaded", model=model.name, seconds=round(seconds, 3))
        return Resident(model=model, size=size_of(parts), engine=engine, drop=engine.close)

    def _curves_of(self, model: Model) -> Curves | None:
        if self._curves is None:
            return None
        return Curves(
            self._curves, f"{self.hardware.fingerprint}; {processor()}; {model.digest}; {self._tick_rows} rows"
        )

    async def _load_full(self, model: Model, engine: Engine, root: Model) -> Resident:
        began = time.monotonic()
        parts = await self._load_parts(model, parts_of_its_own(model, root))
        await engine.add_denoiser(model.digest, parts)
        seconds = time.monotonic() - began
        self._meter.observe(metrics.MODEL_LOAD_SECONDS, seconds, family=model.family)
        _log.info("model.loaded", model=model.name, base=root.name, seconds=round(seconds, 3))

        async def drop() -> None:
            await engine.drop_denoiser(model.digest)

        return Resident(model=model, size=size_of(parts), engine=engine, drop=drop)

    def _loader(self, model: Model, engine: Engine, denoiser: str) -> Callable[[], Awaitable[Resident]]:
        async def load() -> Resident:
            began = time.monotonic()
            try:
                async with self._trees.laid_out(model, model.files) as folder:
                    adapter = await asyncio.to_thread(adapter_net.read, folder)
                prepared = await asyncio.to_thread(engine.prepare, model.digest, adapter, denoiser=denoiser)
                await engine.install(prepared, denoiser=denoiser)
            except Exception:
                self._meter.inc(metrics.ADAPTER_LOADS, outcome="failed")
                raise
            self._meter.inc(metrics.ADAPTER_LOADS, outcome="loaded")
            self._meter.observe(metrics.ADAPTER_LOAD_SECONDS, time.monotonic() - began)

            async def drop() -> None:
                await engine.evict(model.digest, denoiser=denoiser)

            return Resident(model=model, size=prepared.size_bytes, engine=engine, drop=drop)

        return load

    async def _load_parts(self, model: Model, parts: frozenset[Part]) -> Components:
        family = registry.family(model.family)
        async with self._trees.laid_out(model, model.files) as folder:
            loaded = await asyncio.to_thread(
                family.load,
                folder,
                parts=parts,
                precision=self.hardware.precision,
                device=self.hardware.device,
                quantisation=self.hardware.quantisation,
            )
        if loaded.image_coder is not None:
            await asyncio.to_thread(loaded.image_coder.to, DTYPES[self.hardware.image_precision])
        return loaded


def _adapter_key(root: Model, denoiser: str, adapter: Model) -> str:
    return f"{root.digest} {denoiser} {adapter.digest}"
