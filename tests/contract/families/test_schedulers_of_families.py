"""Every scheduler of every family: it draws, its noise is the picture's own, and nothing of it is shared."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusion3Pipeline
from marsam_generator.engine.engine import Drawing, Engine
from marsam_generator.engine.stepper import Tick
from marsam_generator.engine.width import Widths

from marsam.core.ids import new_ulid
from marsam.diffusion import registry
from marsam.diffusion.sampling import Picture, Walk, for_base, initial_noise, sample
from marsam.diffusion.schedulers import own_scheduler, schedulers
from marsam.diffusion.spec import BaseFacts
from tests.contract.families import drawing
from tests.contract.families import rig as rigs
from tests.contract.families.drawing import close, drawn, levels
from tests.contract.families.tiny.sd3 import build

pytestmark = pytest.mark.slow
FAMILIES = registry.families()
TABLES = ("ddim", "dpm++", "euler", "euler_a")


def _pictures(facts: BaseFacts, *, steps: int = 4) -> list[Picture]:
    """One picture for every scheduler of a base."""
    side = rigs.side(facts)
    return [
        for_base(
            Picture(prompt="a red kite", negative="grey", seed=5, width=side, height=side, steps=steps, scheduler=name),
            facts,
        )
        for name in schedulers(facts)
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_scheduler_draws_a_picture_of_its_own_and_again_the_same(bases: dict[str, Path], name: str) -> None:
    family = registry.family(name)
    parts = family.load(bases[name])
    pictures = _pictures(parts.facts)
    assert {picture.scheduler for picture in pictures} == ({"dpm++", "euler"} if parts.facts.flow else set(TABLES))
    assert pictures[0].scheduler == own_scheduler(parts.facts)
    state = torch.get_rng_state()
    drawn = [drawing.latents(family, parts, picture)[-1] for picture in pictures]
    torch.manual_seed(1)
    again = [drawing.latents(family, parts, picture)[-1] for picture in pictures]
    for row, (one, other) in enumerate(zip(drawn, again, strict=True)):
        assert bool(torch.isfinite(one).all())
        assert torch.equal(one, other)
        assert not any(torch.equal(one, others) for others in drawn[:row])
    torch.set_rng_state(state)
    drawing.latents(family, parts, pictures[-1])
    assert torch.equal(torch.get_rng_state(), state)


def test_the_noise_of_steps_is_the_pictures_own(bases: dict[str, Path]) -> None:
    family = registry.family("sd1")
    parts = family.load(bases["sd1"])
    picture = Picture(prompt="a red kite", seed=5, width=32, height=32, steps=4, scheduler="euler_a")
    others = [replace(picture, seed=6), replace(picture, steps=2), replace(picture, scheduler="ddim")]
    alone = sample(family, parts, [picture])[0]
    beside = sample(family, parts, [*others, picture])[3]
    torch.testing.assert_close(beside, alone, atol=1e-4, rtol=0)
    # Without its own noise the same steps end elsewhere.
    plain = sample(family, parts, [replace(picture, scheduler="euler")])[0]
    assert float((plain - alone).abs().max()) > 0.01


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_a_flow_drawn_by_dpm_is_its_pipelines(tmp_path: Path, steps: int) -> None:
    # The one pipeline of a flow beside Sana's that takes a solver which has no sigmas of its own given.
    folder = build(tmp_path / "base")
    family = registry.family("sd3")
    parts = family.load(folder)
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
        pipeline.scheduler.config, prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    picture = Picture(
        prompt="a red kite", negative="grey", seed=9, width=48, height=32, steps=steps, guidance=7.0, scheduler="dpm++"
    )
    theirs = pipeline(
        "a red kite", negative_prompt="grey", num_inference_steps=steps, guidance_scale=7.0, width=48, height=32,
        latents=initial_noise(parts.facts.latent_shape(48, 32), 9), output_type="latent",
        max_sequence_length=256,
    ).images  # fmt: skip
    torch.testing.assert_close(drawing.latents(family, parts, picture)[-1], theirs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["sd1", "sana"])
def test_walks_on_many_threads_share_nothing(bases: dict[str, Path], name: str) -> None:
    facts = registry.family(name).load(bases[name], parts=frozenset()).facts
    pictures = [replace(one, seed=seed, guidance=1.0) for seed in range(4) for one in _pictures(facts, steps=12)]

    def walked(picture: Picture) -> torch.Tensor:
        walk = Walk(facts, picture)
        while not walk.done:
            walk.advance(torch.tanh(walk.model_input()) * walk.t)
        return walk.latent

    alone = [walked(picture) for picture in pictures]
    start = threading.Barrier(8)
    with ThreadPoolExecutor(8, initializer=start.wait) as threads:
        together = list(threads.map(walked, pictures))
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", FAMILIES)
async def test_eight_requests_of_all_schedulers_at_once_are_what_each_is_alone(
    bases: dict[str, Path], name: str
) -> None:
    family = registry.family(name)
    parts = family.load(bases[name])
    made = _pictures(parts.facts)
    wanted = [
        replace(made[row % len(made)], seed=row, steps=2 + row % 4, guidance=made[0].guidance if row % 3 else 1.0)
        for row in range(8)
    ]
    alone = [sample(family, parts, [picture])[0] for picture in wanted]
    ticks: list[Tick] = []
    engine = Engine(name=name, family=family, parts=parts, lanes=1, widths=Widths(limit=16), observe=ticks.append)
    try:
        asked = [Drawing(id=new_ulid(), pictures=[picture]) for picture in wanted]
        together = await asyncio.gather(*(drawn(engine, drawing) for drawing in asked))
    finally:
        await engine.close()
    assert all(close(levels(one), other) for one, (other,) in zip(alone, together, strict=True))
    assert max(tick.rows for tick in ticks) > 2


@pytest.mark.parametrize("name", FAMILIES)
def test_a_single_step_ends_at_a_picture(bases: dict[str, Path], name: str) -> None:
    facts = registry.family(name).load(bases[name], parts=frozenset()).facts
    for picture in _pictures(facts, steps=1):
        walk = Walk(facts, replace(picture, guidance=1.0))
        walk.advance(0.1 * walk.latent)
        assert walk.done and bool(torch.isfinite(walk.latent).all())
