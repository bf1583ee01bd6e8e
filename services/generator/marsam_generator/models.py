"""Models in memory: loaded by resource name from the store when first asked for, dropped least recently used first."""

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from marsam.catalog.files import FileRef
from marsam.catalog.models import Model
from marsam.catalog.repository import load_model
from marsam.core.errors import Missing, Precondition
from marsam.diffusion import registry
from marsam.diffusion.adapter import net as adapter_net
from marsam.diffusion.spec import ALL_PARTS, BaseFacts, Components, Part
from marsam.diffusion.weights.net import bytes_at_rest
from marsam.store.blobs import Blobs
from marsam.store.cache import Cache
from marsam.telemetry import Log, Meter, metrics
from marsam_generator.engine.admission import Admission
from marsam_generator.engine.engine import BASE, Engine
from marsam_generator.engine.loop import Tick
from marsam_generator.engine.width import Widths
from marsam_generator.hardware import Hardware

_log = Log(__name__)

_KINDS = ("base", "full", "adapter")
_TREES = "trees-"
_TREES_KEPT_S = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Lease:
    """Models that stay in memory while it is held."""

    engine: Engine
    denoiser: str
    adapters: Sequence[str]


@dataclass(eq=False, kw_only=True)
class Resident:
    """One model in memory, `size` in bytes."""

    model: Model
    size: int
    engine: Engine
    drop: Callable[[], Awaitable[None]]
    pins: int = 0
    uses: int = 0
    used_at: float = field(default_factory=time.monotonic)


class Library:
    """Every model of this process. Belongs to one event loop; loading happens on threads."""

    def __init__(
        self,
        *,
        blobs: Blobs,
        cache: Cache,
        hardware: Hardware,
        tick_rows: int,
        budget: int,
        admission: Admission,
        meter: Meter,
    ) -> None:
        self.hardware = hardware
        self._blobs = blobs
        self._cache = cache
        # Beside the cached files, so that laying a model out costs links; of this process only, gone with it.
        _sweep(cache.root)
        self._trees = Path(tempfile.mkdtemp(prefix=_TREES, dir=cache.root))
        self._tick_rows = tick_rows
        self._budget = budget
        self._admission = admission
        self._meter = meter
        # Keys nest: an engine "base", in it a denoiser "base full" and an adapter "base denoiser adapter", all digests.
        self._residents: dict[str, Resident] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._facts: dict[str, BaseFacts] = {}
        for kind in _KINDS:
            meter.begin(metrics.MODEL_DROPS, kind=kind)
            for result in ("hit", "miss"):
                meter.begin(metrics.MODEL_REQUESTS, kind=kind, result=result)

    async def facts(self, model: Model) -> BaseFacts:
        """What a base (or a fully tuned model) says of itself, from its JSON files alone."""
        if model.digest not in self._facts:
            wanted = set(registry.family_facts(model.family).config_files)
            files = [file for file in model.files if file.path in wanted]
            async with self._laid_out(model, files) as folder:
                self._facts[model.digest] = await asyncio.to_thread(registry.read_base_folder, model.family, folder)
        return self._facts[model.digest]

    @asynccontextmanager
    async def lease(self, model: Model, adapters: Sequence[Model]) -> AsyncIterator[Lease]:
        """Bring a base or fully tuned model and its adapters into memory and keep them there inside the block."""
        root = await self._root(model)
        async with AsyncExitStack() as stack:
            engine = (await stack.enter_async_context(self._pinned(root.digest, lambda: self._load_base(root)))).engine
            denoiser = BASE
            if model.digest != root.digest:
                denoiser = model.digest
                key = f"{root.digest} {denoiser}"
                await stack.enter_async_context(self._pinned(key, lambda: self._load_full(model, engine, root)))
            for adapter in adapters:
                await stack.enter_async_context(
                    self._pinned(_adapter_key(root, denoiser, adapter), self._loader(adapter, engine, denoiser, root))
                )
            yield Lease(engine=engine, denoiser=denoiser, adapters=[adapter.digest for adapter in adapters])

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
        await asyncio.to_thread(shutil.rmtree, self._trees, ignore_errors=True)
        for key in [key for key in self._residents if " " not in key]:
            await self._drop(key)

    @asynccontextmanager
    async def _pinned(self, key: str, load: Callable[[], Awaitable[Resident]]) -> AsyncIterator[Resident]:
        async with self._locks.setdefault(key, asyncio.Lock()):
            resident = self._residents.get(key)
            result = "miss" if resident is None else "hit"
            if resident is None:
                resident = self._residents[key] = await load()
                self._count(resident.model)
            self._meter.inc(metrics.MODEL_REQUESTS, kind=resident.model.kind, result=result)
            resident.pins += 1
        resident.uses += 1
        resident.used_at = time.monotonic()
        try:
            await self._trim()
            yield resident
        finally:
            resident.pins -= 1

    async def _trim(self) -> None:
        """Drop what was unused for longest until the budget holds; what is pinned stays, however large."""
        while sum(one.size for one in self._residents.values()) > self._budget:
            free = [(self._residents[key].used_at, key) for key in self._residents if not self._is_held(key)]
            if not free:
                return
            await self._drop(min(free)[1])

    def _nest(self, key: str) -> list[Resident]:
        """A resident and everything that lives in it."""
        return [one for inner, one in self._residents.items() if inner == key or inner.startswith(f"{key} ")]

    def _is_held(self, key: str) -> bool:
        return any(one.pins for one in self._nest(key))

    async def _drop(self, key: str) -> None:
        resident = self._residents[key]
        for inner in [inner for inner in self._residents if inner == key or inner.startswith(f"{key} ")]:
            self._meter.inc(metrics.MODEL_DROPS, kind=self._residents.pop(inner).model.kind)
        self._count(resident.model)
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
        """The base whose text encoder and image coder `model` shares."""
        while model.kind == "full" and model.base is not None:
            model = await load_model(self._blobs, model.base)
        return model

    async def _load_base(self, model: Model) -> Resident:
        began = time.monotonic()
        family = registry.family(model.family)
        parts = await self._load_parts(model, ALL_PARTS)
        self._meter.begin(metrics.GENERATION_FIRST_IMAGE_SECONDS, base=model.name)
        images = self._meter.rate(metrics.GENERATION_IMAGES_PER_SECOND, base=model.name)
        steps = self._meter.rate(metrics.GENERATION_STEPS_PER_SECOND, base=model.name)

        def observe(tick: Tick) -> None:
            self._admission.observe(rows=tick.rows, seconds=tick.seconds)
            steps.add(tick.rows)
            images.add(tick.pictures_done)
            self._meter.inc(metrics.GENERATION_STEPS, tick.rows, base=model.name)
            self._meter.inc(metrics.GENERATION_IMAGES, tick.pictures_done, base=model.name)
            self._meter.observe(metrics.GENERATION_TICK_SECONDS, tick.seconds, base=model.name)
            self._meter.observe(metrics.GENERATION_TICK_ROWS, tick.rows, base=model.name)

        engine = Engine(
            name=model.id,
            family=family,
            parts=parts,
            lanes=self.hardware.lanes,
            widths=Widths(limit=self._tick_rows),
            observe=observe,
        )
        seconds = time.monotonic() - began
        self._meter.observe(metrics.MODEL_LOAD_SECONDS, seconds, family=model.family)
        _log.info("model.loaded", model=model.name, seconds=round(seconds, 3))
        held = [part for part in (parts.denoiser, parts.text_encoder, parts.image_coder) if part is not None]
        size = sum(bytes_at_rest(part) for part in held)
        return Resident(model=model, size=size, engine=engine, drop=engine.close)

    async def _load_full(self, model: Model, engine: Engine, root: Model) -> Resident:
        began = time.monotonic()
        parts = await self._load_parts(model, frozenset({Part.DENOISER}))
        assert parts.denoiser is not None  # it was asked for
        await engine.add_denoiser(model.digest, parts.denoiser)
        seconds = time.monotonic() - began
        self._meter.observe(metrics.MODEL_LOAD_SECONDS, seconds, family=model.family)
        _log.info("model.loaded", model=model.name, base=root.name, seconds=round(seconds, 3))

        async def drop() -> None:
            await engine.drop_denoiser(model.digest)

        size = bytes_at_rest(parts.denoiser)
        return Resident(model=model, size=size, engine=engine, drop=drop)

    def _loader(self, model: Model, engine: Engine, denoiser: str, root: Model) -> Callable[[], Awaitable[Resident]]:
        async def load() -> Resident:
            began = time.monotonic()
            try:
                async with self._laid_out(model, model.files) as folder:
                    adapter = await asyncio.to_thread(adapter_net.read, folder)
                prepared = await asyncio.to_thread(engine.bank(denoiser).prepare, model.digest, adapter)
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
        async with self._laid_out(model, model.files) as folder:
            return await asyncio.to_thread(
                family.load, folder, parts=parts, precision=self.hardware.precision, device=self.hardware.device
            )

    @asynccontextmanager
    async def _laid_out(self, model: Model, files: Sequence[FileRef]) -> AsyncIterator[Path]:
        """A model's files as a folder tree of links into the cache, gone after the block: what is loaded is in
        memory.
        """
        folder = Path(await asyncio.to_thread(tempfile.mkdtemp, dir=self._trees))
        try:
            yield await self._cache.lay_out(self._blobs, model.project, files, folder)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _adapter_key(root: Model, denoiser: str, adapter: Model) -> str:
    return f"{root.digest} {denoiser} {adapter.digest}"


def _sweep(root: Path) -> None:
    """Remove the folder trees that killed processes left. A tree in use is younger: loading takes minutes."""
    for trees in root.glob(f"{_TREES}*"):
        if time.time() - trees.stat().st_mtime > _TREES_KEPT_S:
            shutil.rmtree(trees, ignore_errors=True)
