"""Pictures that start from another, and pictures redrawn inside a mask: every family in the engine, and beside the
pipelines of diffusers."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    FluxImg2ImgPipeline,
    FluxInpaintPipeline,
    StableDiffusion3Img2ImgPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from diffusers.pipelines.flux import pipeline_flux_img2img, pipeline_flux_inpaint
from marsam_generator.engine.coder import Coder, Start
from marsam_generator.engine.engine import Drawing, Drawn, Engine, Progress
from marsam_generator.engine.width import Widths
from marsam_generator.engine.work import Terms

from marsam.core.errors import Invalid
from marsam.core.ids import new_ulid
from marsam.diffusion import registry
from marsam.diffusion.sampling import Ground, Picture, Walk, for_base, sample
from marsam.diffusion.schedulers import schedulers
from marsam.diffusion.spec import Components, Family
from tests.contract.families import drawing
from tests.contract.families import rig as rigs
from tests.contract.families.drawing import THEIRS

pytestmark = pytest.mark.slow


def _colours(width: int, height: int) -> torch.Tensor:
    """(H, W, 3) uint8: a picture whose every row and column differs."""
    across, down = torch.arange(width) * 200 // width, torch.arange(height) * 200 // height
    return torch.stack(
        [across.expand(height, -1), down.unsqueeze(1).expand(-1, width), (across + down.unsqueeze(1)) // 2 + 20], dim=-1
    ).to(torch.uint8)


def _picture(facts: Any, **more: Any) -> Picture:
    side = rigs.side(facts)
    values = {"prompt": "a red kite", "negative": "grey", "seed": 5, "width": side, "height": side, "steps": 10, **more}
    return for_base(Picture(**values), facts)


async def _drawn(
    family: Family, parts: Components, pictures: Sequence[Picture], start: Start | None
) -> tuple[list[torch.Tensor], int]:
    """The pixels of pictures drawn by an engine, and the steps that it told."""
    engine = Engine(name="b", family=family, parts=parts, lanes=1, widths=Widths(limit=16), observe=lambda tick: None)
    found: dict[int, torch.Tensor] = {}
    of = 0
    try:
        async for event in engine.draw(Drawing(id=new_ulid(), pictures=pictures, start=start)):
            match event:
                case Progress():
                    of = event.of
                case Drawn():
                    found[event.index] = event.pixels
    finally:
        await engine.close()
    return [found[index] for index in range(len(pictures))], of


def _far(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.float() - other.float()).abs().mean())


@pytest.mark.parametrize("name", registry.families())
async def test_the_less_strength_the_nearer_to_the_start(bases: dict[str, Path], name: str) -> None:
    family = registry.family(name)
    parts = family.load(bases[name])
    for scheduler in schedulers(parts.facts):
        picture = _picture(parts.facts, scheduler=scheduler, guidance=1.0)
        start = Start(pixels=_colours(picture.width, picture.height))
        coder = Coder(family, parts)
        # What the image coder alone makes of it: that of an untrained one is far from what went in.
        there = coder.picture(coder.ground(start).clean, None)
        found = {}
        for steps, strength in ((50, 0.02), (10, 0.5), (10, 1.0)):
            wanted = [replace(picture, steps=steps, strength=strength, seed=seed) for seed in (5, 6)]
            (one, other), of = await _drawn(family, parts, wanted, start)
            assert of == 2 * round(steps * strength)
            assert not torch.equal(one, other)
            found[strength] = one
        assert _far(found[0.02], there) < _far(found[1.0], there)
        # The whole of the strength is the noise alone, to the bit.
        (plain,), of = await _drawn(family, parts, [picture], None)
        alone, _ = await _drawn(family, parts, [picture], start)
        assert of == 10
        assert torch.equal(alone[0], plain)
        assert not torch.equal(found[0.5], plain)


@pytest.mark.parametrize("name", registry.families())
@pytest.mark.parametrize("strength", [0.5, 1.0])
async def test_what_a_mask_keeps_is_kept_to_the_bit(bases: dict[str, Path], name: str, strength: float) -> None:
    family = registry.family(name)
    parts = family.load(bases[name])
    for scheduler in schedulers(parts.facts):
        picture = _picture(parts.facts, scheduler=scheduler, strength=strength, steps=4)
        pixels = _colours(picture.width, picture.height)
        mask = torch.zeros(picture.height, picture.width, dtype=torch.uint8)
        # Not on the borders of cells, and a grey rim.
        mask[3 : picture.height // 2 + 1, 5 : picture.width - 3] = 255
        mask[3, 5 : picture.width - 3] = 100
        (drawn,), _ = await _drawn(family, parts, [picture], Start(pixels=pixels, mask=mask))
        kept = mask == 0
        assert torch.equal(drawn[kept], pixels[kept])
        assert _far(drawn[mask == 255], pixels[mask == 255]) > 2.0
        whole, _ = await _drawn(family, parts, [picture], Start(pixels=pixels))
        assert not torch.equal(drawn[mask == 255], whole[0][mask == 255])


@pytest.mark.parametrize("name", ["sd1", "sana"])
async def test_exact_pictures_from_a_picture_are_the_same_bits_beside_others(bases: dict[str, Path], name: str) -> None:
    family = registry.family(name)
    parts = family.load(bases[name])
    picture = _picture(parts.facts, strength=0.6, steps=6)
    start = Start(pixels=_colours(picture.width, picture.height))
    engine = Engine(name="b", family=family, parts=parts, lanes=1, widths=Widths(limit=16), observe=lambda tick: None)

    async def drawn(picture: Picture, start: Start | None, exact: bool) -> torch.Tensor:
        asked = Drawing(id=new_ulid(), pictures=[picture], start=start, terms=Terms(exact=exact))
        (pixels,) = await drawing.drawn(engine, asked)
        return pixels

    try:
        for scheduler in schedulers(parts.facts):
            mine = replace(picture, scheduler=scheduler)
            alone = await drawn(mine, start, True)
            others = [drawn(replace(mine, seed=seed, strength=1.0), None, seed % 2 == 0) for seed in range(5)]
            beside, *_ = await asyncio.gather(drawn(mine, start, True), *others)
            assert torch.equal(beside, alone)
    finally:
        await engine.close()


def test_a_mask_takes_every_cell_that_it_touches(bases: dict[str, Path]) -> None:
    family = registry.family("sd1")
    parts = family.load(bases["sd1"])
    mask = torch.zeros(32, 48, dtype=torch.uint8)
    mask[9, 13] = 1
    factor = parts.facts.latent_factor
    found = Coder(family, parts).ground(Start(pixels=_colours(48, 32), mask=mask))
    assert found.mask is not None
    assert found.mask.shape == (1, 1, 32 // factor, 48 // factor)
    assert found.mask.sum() == 1.0
    assert found.mask[0, 0, 9 // factor, 13 // factor] == 1.0
    with torch.no_grad():
        theirs = family.encode_image(parts, _colours(48, 32).permute(2, 0, 1).unsqueeze(0).float() / 127.5 - 1)
    assert torch.equal(found.clean, theirs)


def test_strength_without_a_start_is_refused(bases: dict[str, Path]) -> None:
    facts = registry.family("sd1").load(bases["sd1"], parts=frozenset()).facts
    with pytest.raises(Invalid) as caught:
        Walk(facts, _picture(facts, strength=0.5))
    assert (caught.value.field, caught.value.reason) == ("strength", "STRENGTH_WITHOUT_START")


@pytest.mark.parametrize("steps", [1, 3, 20, 50])
@pytest.mark.parametrize("strength", [0.01, 0.35, 0.6, 0.9, 1.0])
def test_steps_are_taken_as_strength_says_and_one_at_least(steps: int, strength: float) -> None:
    taken = Picture(prompt="", seed=1, width=8, height=8, steps=steps, strength=strength).taken
    assert 1 <= taken <= steps
    assert abs(taken - steps * strength) < 1.0
    assert taken >= steps * strength - 1e-6


def _latents(facts: Any, width: int, height: int) -> torch.Tensor:
    return torch.randn((1, *facts.latent_shape(width, height)), generator=torch.Generator().manual_seed(3))


def _ours(family: Family, parts: Components, picture: Picture, ground: Ground, **more: Any) -> torch.Tensor:
    return (sample(family, parts, [picture], ground=ground, **more) + 1) / 2


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("world", ["v", "epsilon"])
@pytest.mark.parametrize("scheduler", THEIRS)
def test_sd1_from_a_picture_is_its_pipelines(
    bases: dict[str, Path], epsilon_base: Path, world: str, scheduler: str
) -> None:
    family, folder = registry.family("sd1"), bases["sd1"] if world == "v" else epsilon_base
    parts = family.load(folder)
    pipeline = _quiet(StableDiffusionImg2ImgPipeline.from_pretrained(folder, local_files_only=True))
    pipeline.scheduler = THEIRS[scheduler].from_config(pipeline.scheduler.config)
    clean = _latents(parts.facts, 48, 32)
    picture = Picture(
        prompt="a red kite", negative="grey", seed=9, width=48, height=32, steps=10, scheduler=scheduler, strength=0.6
    )
    theirs = pipeline(
        "a red kite", negative_prompt="grey", image=clean, strength=0.6, num_inference_steps=10,
        guidance_scale=picture.guidance, generator=torch.Generator().manual_seed(9), output_type="pt",
    ).images  # fmt: skip
    torch.testing.assert_close(_ours(family, parts, picture, Ground(clean=clean)), theirs, atol=2e-4, rtol=0)


@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpm++"])
def test_sd1_inside_a_mask_is_its_pipelines(bases: dict[str, Path], scheduler: str, strength: float) -> None:
    family = registry.family("sd1")
    parts = family.load(bases["sd1"])
    whole = StableDiffusionPipeline.from_pretrained(bases["sd1"], local_files_only=True)
    pipeline = _quiet(StableDiffusionInpaintPipeline(**whole.components, requires_safety_checker=False))
    pipeline.scheduler = THEIRS[scheduler].from_config(pipeline.scheduler.config)
    clean = _latents(parts.facts, 48, 32)
    factor = parts.facts.latent_factor
    cells = torch.zeros(1, 1, 32 // factor, 48 // factor)
    cells[:, :, 1:, 2:-1] = 1.0
    mask = cells.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    picture = Picture(
        prompt="a red kite", negative="grey", seed=9, width=48, height=32, steps=10, scheduler=scheduler,
        strength=strength,
    )  # fmt: skip
    theirs = pipeline(
        "a red kite", negative_prompt="grey", image=clean, mask_image=mask, strength=strength, num_inference_steps=10,
        masked_image_latents=clean, guidance_scale=picture.guidance, width=48, height=32,
        generator=torch.Generator().manual_seed(9), output_type="latent",
    ).images  # fmt: skip
    ground = Ground(clean=clean, mask=cells)
    walked = drawing.latents(family, parts, picture, ground)[-1]
    torch.testing.assert_close(walked, theirs, atol=2e-5, rtol=1e-5)
    assert torch.equal(walked * (1 - cells), clean * (1 - cells))


def test_sd3_is_its_pipelines(bases: dict[str, Path]) -> None:
    family = registry.family("sd3")
    parts = family.load(bases["sd3"])
    pipeline = _quiet(StableDiffusion3Img2ImgPipeline.from_pretrained(bases["sd3"], local_files_only=True))
    clean = _latents(parts.facts, 48, 32)
    picture = Picture(
        prompt="a red kite", negative="grey", seed=9, width=48, height=32, steps=10, guidance=7.0, strength=0.6
    )
    theirs = pipeline(
        "a red kite", negative_prompt="grey", image=clean, strength=0.6, num_inference_steps=10, guidance_scale=7.0,
        width=48, height=32, generator=torch.Generator().manual_seed(9), output_type="latent", max_sequence_length=256,
    ).images  # fmt: skip
    walked = drawing.latents(family, parts, picture, Ground(clean=clean))[-1]
    torch.testing.assert_close(walked, theirs, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
def test_flux_is_its_pipelines(bases: dict[str, Path], masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    family = registry.family("flux")
    parts = family.load(bases["flux"])
    module, cls = (
        (pipeline_flux_inpaint, FluxInpaintPipeline) if masked else (pipeline_flux_img2img, FluxImg2ImgPipeline)
    )
    # They take a sample of what the image coder says, and ours its mean.
    monkeypatch.setattr(module, "retrieve_latents", lambda said, generator=None: said.latent_dist.mode())
    pipeline = _quiet(cls.from_pretrained(bases["flux"], local_files_only=True))
    mask = torch.zeros(32, 48, dtype=torch.uint8)
    mask[16:, 16:40] = 255
    start = Start(pixels=_colours(48, 32), mask=mask if masked else None)
    picture = Picture(
        prompt="a red kite", seed=9, width=48, height=32, steps=10, guidance=1.0, embedded=4.5, strength=0.6
    )
    theirs = pipeline(
        "a red kite", image=start.pixels.permute(2, 0, 1).unsqueeze(0) / 255, strength=0.6, num_inference_steps=10,
        guidance_scale=4.5, width=48, height=32, generator=torch.Generator().manual_seed(9), output_type="latent",
        max_sequence_length=parts.facts.text_length, **({"mask_image": mask[None, None] / 255} if masked else {}),
    ).images  # fmt: skip
    theirs = pipeline._unpack_latents(theirs, 32, 48, pipeline.vae_scale_factor)
    walked = drawing.latents(family, parts, picture, Coder(family, parts).ground(start))[-1]
    torch.testing.assert_close(walked, theirs, atol=2e-5, rtol=1e-5)
