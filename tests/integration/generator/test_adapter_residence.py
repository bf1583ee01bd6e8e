"""Which adapters are in memory: a budget in bytes, who was used last, pins; nobody waits for another's adapter."""

import asyncio
import os
import threading
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import torch
from marsam_generator.engine.admission import Admission
from marsam_generator.engine.engine import Drawing, Drawn, Progress
from marsam_generator.engine.work import Terms
from marsam_generator.hardware import choose
from marsam_generator.models import Library
from marsam_generator.trees import Trees

from marsam.catalog.models import Model
from marsam.catalog.repository import load_model
from marsam.core.errors import Precondition
from marsam.core.ids import new_ulid
from marsam.diffusion.sampling import Picture
from marsam.store.cache import Cache
from marsam.store.folder import FolderBlobs
from marsam.telemetry import Meter
from tests.integration.generator.support import model


class GatedBlobs(FolderBlobs):
    """A folder of which one file comes only while `open` is set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gated = ""
        self.open = asyncio.Event()
        self.asked = asyncio.Event()

    async def fetch(self, key: str, into: Path, *, sha256: str, size: int) -> Path:
        if self.gated and self.gated in key:
            self.asked.set()
            await self.open.wait()
        return await super().fetch(key, into, sha256=sha256, size=size)


class Shelf:
    """A library over the tiny models."""

    def __init__(self, store: str, cache: Path, *, budget: int = 1 << 30) -> None:
        self.blobs = GatedBlobs(Path(store))
        self.library = Library(
            blobs=self.blobs,
            trees=Trees(self.blobs, Cache(cache)),
            hardware=choose("cpu", "fp32", 1),
            tick_rows=4,
            budget=budget,
            admission=Admission(seconds=600, pictures=64),
            meter=Meter(service="generator", version="0"),
        )

    async def model(self, name: str) -> Model:
        return await load_model(self.blobs, model(name))

    async def use(self, *names: str) -> None:
        """Ask for the base with these adapters."""
        async with self.library.lease(await self.model("base"), [await self.model(name) for name in names]):
            pass

    @property
    def names(self) -> set[str]:
        """The adapters in memory."""
        residents = self.library.residents()
        return {one.model.id for one in residents if one.model.kind == "adapter"}

    def size(self, name: str) -> int:
        return next(one.size for one in self.library.residents() if one.model.id == name)

    async def draw(self, *names: str, steps: int = 4, exact: bool = False) -> AsyncGenerator[Progress | Drawn, None]:
        async with self.library.lease(await self.model("base"), [await self.model(name) for name in names]) as lease:
            picture = Picture(prompt="a chef", seed=7, width=16, height=16, steps=steps, guidance=1.0)
            drawing = Drawing(
                id=new_ulid(), pictures=[picture], adapters=dict.fromkeys(lease.adapters, 1.0), terms=Terms(exact=exact)
            )
            async for event in lease.engine.draw(drawing):
                if isinstance(event, Progress | Drawn):
                    yield event

    async def pixels(self, *names: str, exact: bool = False) -> torch.Tensor:
        drawn = [event async for event in self.draw(*names, exact=exact) if isinstance(event, Drawn)]
        return drawn[0].pixels


@pytest.fixture
async def sizes(store: str, tmp_path: Path) -> dict[str, int]:
    """Bytes of the base and of each adapter, in memory."""
    shelf = Shelf(store, tmp_path / "cache")
    await shelf.use("a", "b", "stretched")
    found = {name: shelf.size(name) for name in ("base", "a", "b", "stretched")}
    (engine,) = {one.engine for one in shelf.library.residents()}
    assert engine.bank_bytes == sum(found.values()) - found["base"]
    await shelf.library.close()
    return found


async def test_within_its_budget_the_one_unused_for_longest_goes(
    store: str, tmp_path: Path, sizes: dict[str, int]
) -> None:
    budget = sizes["base"] + sizes["a"] + sizes["b"] + sizes["stretched"] - 1
    shelf = Shelf(store, tmp_path / "cache", budget=budget)
    await shelf.use("a")
    await shelf.use("b")
    await shelf.use("a")
    assert shelf.names == {"a", "b"}
    await shelf.use("stretched")
    assert shelf.names == {"a", "stretched"}
    await shelf.library.close()


async def test_what_is_pinned_stays_until_it_is_evicted_by_name(
    store: str, tmp_path: Path, sizes: dict[str, int]
) -> None:
    shelf = Shelf(store, tmp_path / "cache", budget=sizes["base"] + sizes["a"] + sizes["b"])
    await shelf.use("a")
    shelf.library.pin(await shelf.model("a"))
    await shelf.use("b")
    await shelf.use("stretched")
    assert shelf.names == {"a", "stretched"}
    await shelf.library.evict(await shelf.model("a"))
    await shelf.use("b")
    assert "a" not in shelf.names and "b" in shelf.names
    await shelf.library.close()


async def test_others_draw_on_while_an_adapter_is_read(store: str, tmp_path: Path) -> None:
    shelf = Shelf(store, tmp_path / "cache")
    weights = next(file for file in (await shelf.model("b")).files if file.path.endswith(".safetensors"))
    shelf.blobs.gated = weights.digest.removeprefix("sha256:")
    async with asyncio.timeout(60):
        drawing = shelf.draw("a", steps=200)
        assert isinstance(await anext(drawing), Progress)
        waiting = asyncio.create_task(shelf.pixels("b"))
        await shelf.blobs.asked.wait()
        before = await anext(drawing)
        for _ in range(20):
            after = await anext(drawing)
        assert isinstance(before, Progress) and isinstance(after, Progress)
        assert after.done >= before.done + 20 and not waiting.done()
        shelf.blobs.open.set()
        await waiting
        # It was drawn between the other's steps, who is not done yet.
        last = await anext(drawing)
        assert isinstance(last, Progress) and last.done < 200
        await drawing.aclose()
    await shelf.library.close()


async def test_what_goes_while_others_draw_changes_no_bit_of_theirs(store: str, tmp_path: Path) -> None:
    shelf = Shelf(store, tmp_path / "cache")
    await shelf.use("a", "b", "stretched")
    alone = await shelf.pixels("a", exact=True)
    async with asyncio.timeout(60):
        drawing = shelf.draw("a", exact=True)
        await anext(drawing)
        with pytest.raises(Precondition) as caught:
            await shelf.library.evict(await shelf.model("a"))
        assert caught.value.reason == "MODEL_IN_USE"
        for name in ("b", "stretched"):
            await shelf.library.evict(await shelf.model(name))
        drawn = [event async for event in drawing if isinstance(event, Drawn)]
    assert torch.equal(drawn[0].pixels, alone)
    assert shelf.names == {"a"}
    await shelf.library.close()


async def test_what_is_thrown_out_goes_although_who_needed_the_room_has_left(
    store: str, tmp_path: Path, sizes: dict[str, int]
) -> None:
    shelf = Shelf(store, tmp_path / "cache", budget=sum(sizes.values()) - 1)
    await shelf.use("a")
    await shelf.use("b")
    (engine,) = {one.engine for one in shelf.library.residents()}
    # The loop stands still once the third is there, so that nothing can go.
    async with shelf.library.lease(await shelf.model("base"), []):
        shelf.library._budget += 1
        await shelf.use("stretched")
        shelf.library._budget -= 1
        gate = threading.Event()
        standing = engine._loop.between(lambda: gate.wait(60))
        try:
            leaving = asyncio.create_task(shelf.use("b"))
            async with asyncio.timeout(60):
                while "a" in shelf.names:
                    await asyncio.sleep(0.01)
            leaving.cancel()
            await asyncio.wait({leaving})
        finally:
            gate.set()
        assert standing.result(60)
    async with asyncio.timeout(60):
        while engine.bank_bytes != sizes["b"] + sizes["stretched"]:
            await asyncio.sleep(0.01)
    await shelf.library.close()


async def test_a_process_that_read_nothing_for_a_day_reads_on_after_another_has_started_beside_it(
    store: str, tmp_path: Path
) -> None:
    shelf = Shelf(store, tmp_path / "cache")
    await shelf.use("a")
    (trees,) = (tmp_path / "cache").glob("trees-*")
    os.utime(trees, (0, 0))
    Shelf(store, tmp_path / "cache")
    await shelf.use("b")
    assert shelf.names == {"a", "b"}
    await shelf.library.close()
