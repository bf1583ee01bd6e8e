"""EXACT: the same bits whatever else is drawn, resident, loaded or thrown out meanwhile, and in another process."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from marsam_generator.engine.engine import Engine

from marsam.diffusion.adapter.net import Adapter
from marsam.diffusion.sampling import Picture
from tests.unit.generator.exactly import ADAPTERS, PROMISED, alone, draw, engine_of, install, promised

pytestmark = pytest.mark.slow

Load = Callable[[Engine, Mapping[str, Adapter]], Awaitable[dict[str, str]]]


def stranger(seed: int, **fields: object) -> Picture:
    values: dict[str, object] = {"prompt": "a dancer", "width": 16, "height": 16, "steps": 9, "guidance": 2.0, **fields}
    return Picture(seed=seed, **values)  # type: ignore[arg-type]


@asynccontextmanager
async def strangers(*work: Awaitable[object]) -> AsyncIterator[None]:
    """Others that draw meanwhile, however that ends."""
    tasks = [asyncio.ensure_future(each) for each in work]
    await asyncio.sleep(0.03)  # some of them are in the loop by then, some come later
    yield
    await asyncio.gather(*tasks, return_exceptions=True)


async def all_at_once(engine: Engine, adapters: Mapping[str, Adapter]) -> dict[str, str]:
    return await promised(engine, together=True)


async def one_after_the_other_beside_exact_ones(engine: Engine, adapters: Mapping[str, Adapter]) -> dict[str, str]:
    uses = ({}, {"a": 1.0}, {"b": 0.3, "a": 0.2}, {"narrow": 1.0}, {"b": 1.0})
    async with strangers(*(draw(engine, stranger(seed, steps=30), use) for seed, use in enumerate(uses))):
        return await promised(engine, together=False)


async def beside_shared_ones(engine: Engine, adapters: Mapping[str, Adapter]) -> dict[str, str]:
    others = (draw(engine, stranger(seed, steps=20), {"a": 0.5}, exact=False) for seed in range(7))
    async with strangers(*others):
        return await promised(engine, together=True)


async def among_unguided_ones_that_shift_the_rows(engine: Engine, adapters: Mapping[str, Adapter]) -> dict[str, str]:
    others = (draw(engine, stranger(seed, guidance=1.0, steps=3 + seed), {"b": 0.1 * seed}) for seed in range(9))
    async with strangers(*others):
        return await promised(engine, together=True)


async def while_adapters_come_and_go(engine: Engine, adapters: Mapping[str, Adapter]) -> dict[str, str]:
    async def churn() -> None:
        for round_ in range(12):
            await engine.install(engine.prepare(f"guest {round_}", adapters["b"]))
            await draw(engine, stranger(round_, steps=2), {f"guest {round_}": 1.0})
            await engine.evict(f"guest {round_}")

    async with strangers(churn()):
        return await promised(engine, together=False)


async def after_its_own_adapters_were_thrown_out_and_read_again(
    engine: Engine, adapters: Mapping[str, Adapter]
) -> dict[str, str]:
    await promised(engine, together=True)
    for key in ADAPTERS:
        await engine.evict(key)
    await install(engine, {**adapters, "first": adapters["b"]}, "first", *reversed(ADAPTERS))
    return await promised(engine, together=True)


async def beside_one_that_leaves_the_numbers(engine: Engine, adapters: Mapping[str, Adapter]) -> dict[str, str]:
    wild = {name: (torch.full_like(down, 3e38), up) for name, (down, up) in adapters["a"].pairs.items()}
    await engine.install(engine.prepare("wild", replace(adapters["a"], pairs=wild)))
    async with strangers(*(draw(engine, stranger(seed), {"wild": 1.0}) for seed in range(3))):
        return await promised(engine, together=True)


async def beside_one_that_raises(engine: Engine, adapters: Mapping[str, Adapter]) -> dict[str, str]:
    async with strangers(*(draw(engine, stranger(seed), {"nowhere": 1.0}) for seed in range(3))):
        return await promised(engine, together=True)


async def among_tenants_priorities_and_sizes(engine: Engine, adapters: Mapping[str, Adapter]) -> dict[str, str]:
    others = (
        draw(engine, stranger(seed, width=16 + 4 * (seed % 3)), {"a": 1.0}, tenant=f"t{seed}", priority=seed)
        for seed in range(6)
    )
    async with strangers(*others):
        return await promised(engine, together=True)


LOADS: tuple[Load, ...] = (
    all_at_once,
    one_after_the_other_beside_exact_ones,
    beside_shared_ones,
    among_unguided_ones_that_shift_the_rows,
    while_adapters_come_and_go,
    after_its_own_adapters_were_thrown_out_and_read_again,
    beside_one_that_leaves_the_numbers,
    beside_one_that_raises,
    among_tenants_priorities_and_sizes,
)


@pytest.fixture(scope="module")
def reference(base_folder: Path, adapters: dict[str, Adapter]) -> dict[str, str]:
    found = asyncio.run(alone(base_folder, adapters))
    assert len(set(found.values())) == len(PROMISED)
    return found


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.__name__)
async def test_exact_pictures_are_the_same_bits_under_any_load(
    base_folder: Path, adapters: dict[str, Adapter], reference: dict[str, str], load: Load, lanes: int
) -> None:
    engine = engine_of(base_folder, lanes=lanes)
    await install(engine, adapters, *ADAPTERS)
    try:
        assert await load(engine, adapters) == reference
    finally:
        await engine.close()


async def test_exact_pictures_are_the_same_bits_in_another_process(
    base_folder: Path, adapter_folders: Path, reference: dict[str, str]
) -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.unit.generator.exactly", str(base_folder), str(adapter_folders),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await asyncio.wait_for(program.communicate(), 120)
    assert json.loads(out.splitlines()[-1]) == reference
