"""Pictures that are promised to the bit, and their digests; as a program it draws each of them alone."""

import asyncio
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from marsam_generator.engine.engine import Drawing, Drawn, Engine
from marsam_generator.engine.width import Widths
from marsam_generator.engine.work import Denoised, Event, Order, Terms

from marsam.core.ids import new_ulid
from marsam.diffusion import registry
from marsam.diffusion.adapter.net import Adapter, read
from marsam.diffusion.sampling import Picture

ADAPTERS = ("a", "b", "narrow")
PROMISED: Mapping[str, tuple[Picture, Mapping[str, float]]] = {
    "plain": (Picture(prompt="a chef", seed=1, width=16, height=16, steps=5, guidance=1.0), {}),
    "guided": (
        Picture(prompt="عالمة", negative="a desert", seed=2, width=16, height=16, steps=6, guidance=3.0),
        {"a": 0.7},
    ),
    "mixed": (
        Picture(prompt="a chef", seed=3, width=16, height=16, steps=4, guidance=5.0, scheduler="euler"),
        {"b": 0.5, "narrow": 1.0},
    ),
}


def engine_of(base: Path, *, lanes: int = 1, limit: int = 32) -> Engine:
    """A fresh engine over the tiny base."""
    family = registry.family("sd1")
    return Engine(
        name="tiny", family=family, parts=family.load(base), lanes=lanes, widths=Widths(limit=limit),
        observe=lambda tick: None,
    )  # fmt: skip


async def install(engine: Engine, adapters: Mapping[str, Adapter], *keys: str) -> None:
    for key in keys:
        await engine.install(engine.prepare(key, adapters[key]))


async def draw(engine: Engine, picture: Picture, use: Mapping[str, float], *, exact: bool = True, **terms: Any) -> str:
    """The digest of a picture's latent, which tells what pixels round away, and of its pixels."""
    found = hashlib.sha256()
    told = engine._loop.submit

    def submit(order: Order) -> None:
        def sink(event: Event) -> None:
            if isinstance(event, Denoised):
                found.update(event.latent.numpy().tobytes())
            order.sink(event)

        told(replace(order, sink=sink) if order.id == drawing.id else order)

    drawing = Drawing(id=new_ulid(), pictures=[picture], adapters=use, terms=Terms(exact=exact, **terms))
    engine._loop.submit = submit  # type: ignore[method-assign]
    drawn = [event.pixels async for event in engine.draw(drawing) if isinstance(event, Drawn)]
    found.update(drawn[0].numpy().tobytes())
    return found.hexdigest()


async def promised(engine: Engine, *, together: bool) -> dict[str, str]:
    """The digests of what is promised, drawn one after the other or all at once."""
    if together:
        found = await asyncio.gather(*(draw(engine, picture, use) for picture, use in PROMISED.values()))
        return dict(zip(PROMISED, found, strict=True))
    return {name: await draw(engine, picture, use) for name, (picture, use) in PROMISED.items()}


async def alone(base: Path, adapters: Mapping[str, Adapter]) -> dict[str, str]:
    """The digests of what is promised where nothing else is."""
    engine = engine_of(base)
    await install(engine, adapters, *ADAPTERS)
    try:
        return await promised(engine, together=False)
    finally:
        await engine.close()


if __name__ == "__main__":
    torch.set_num_threads(1)
    root = Path(sys.argv[2])
    print(json.dumps(asyncio.run(alone(Path(sys.argv[1]), {key: read(root / key) for key in ADAPTERS}))))
