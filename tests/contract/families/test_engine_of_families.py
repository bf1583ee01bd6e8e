"""The generator's engine draws every family's pictures as `sample` does, adapters of the bank included."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from marsam_generator.engine.engine import Drawing, Drawn, Engine
from marsam_generator.engine.loop import Tick
from marsam_generator.engine.width import Widths

from marsam.core.ids import new_ulid
from marsam.diffusion import registry
from marsam.diffusion.adapter import net as adapters
from marsam.diffusion.sampling import Picture, for_base, sample, schedulers
from tests.contract.families import rig as rigs

pytestmark = pytest.mark.slow
PROMPTS = ("a red kite", "طائرة ورقية حمراء فوق مدينة على البحر", "")


async def _draw(engine: Engine, picture: Picture, **fields: Any) -> torch.Tensor:
    drawing = Drawing(id=new_ulid(), pictures=[picture], **fields)
    found = [event.pixels async for event in engine.draw(drawing) if isinstance(event, Drawn)]
    return found[0]


def _levels(pixels: torch.Tensor) -> torch.Tensor:
    return ((pixels + 1.0) * 127.5).round().to(torch.uint8).permute(1, 2, 0)


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    # uint8: a grey level may flip where a value lies on its edge.
    return int((one.int() - other.int()).abs().max()) <= 1


@pytest.mark.parametrize("name", registry.families())
async def test_what_is_drawn_together_is_what_each_would_be_alone(
    bases: dict[str, Path], name: str, tmp_path: Path
) -> None:
    rig = rigs.load(bases[name], name, "lora")
    loop = rigs.loop(rig, steps=4)
    while not loop.done:
        loop.step()
    rig.save(tmp_path)
    adapter = adapters.read(tmp_path)
    family = registry.family(name)
    facts = family.load(bases[name], parts=frozenset()).facts
    side = rigs.side(facts)
    wanted = [
        for_base(
            Picture(
                prompt=prompt, negative="grey", seed=row, width=side, height=side,
                steps=3 + row, guidance=1.0 + row, scheduler=schedulers(facts)[row % len(schedulers(facts))],
            ),
            facts,
        )
        for row, prompt in enumerate(PROMPTS)
    ]  # fmt: skip
    weights = [0.0, 1.0, 0.5]
    alone = []
    for picture, weight in zip(wanted, weights, strict=True):
        parts = family.load(bases[name])
        if weight:
            adapters.apply(parts.denoiser, adapter, weight=weight)
        alone.append(_levels(sample(family, parts, [picture])[0]))
    ticks: list[Tick] = []
    engine = Engine(
        name=name, family=family, parts=family.load(bases[name]), lanes=1, widths=Widths(limit=16),
        observe=ticks.append,
    )  # fmt: skip
    try:
        await engine.install(engine.bank().prepare("tuned", adapter))
        # The loop stands still until all three are there, so that they share its ticks.
        gate = threading.Event()
        held = engine._loop.between(lambda: gate.wait(60))
        drawing = asyncio.gather(
            *(
                _draw(engine, picture, adapters={"tuned": weight})
                for picture, weight in zip(wanted, weights, strict=True)
            )
        )
        async with asyncio.timeout(60):
            while len(engine._loop._arrivals) < len(wanted):
                await asyncio.sleep(0.01)
        gate.set()
        together = await drawing
        assert held.result(60)
    finally:
        await engine.close()
    for one, other in zip(alone, together, strict=True):
        assert _close(one, other)
    # Five rows, or three where guidance needs no second one.
    assert max(tick.rows for tick in ticks) == sum(2 if picture.guided else 1 for picture in wanted)
    plain = sample(family, family.load(bases[name]), [wanted[1]])[0]
    assert not _close(_levels(plain), together[1])
