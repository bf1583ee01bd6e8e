"""Parity of sd1 with diffusers' own pipeline, for both objectives and all schedulers; and with PEFT's own loader."""

from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import PeftModel

from marsam.core.errors import Corrupt, Invalid
from marsam.diffusion import registry, schedule
from marsam.diffusion.sampling import Picture, sample
from marsam.diffusion.spec import Conditioning, Part
from tests.contract.families import rig as rigs
from tests.contract.families.bases import build_sd1
from tests.contract.families.drawing import THEIRS


@pytest.fixture(params=["v", "epsilon"])
def base(request: pytest.FixtureRequest, bases: dict[str, Path], epsilon_base: Path) -> Path:
    return bases["sd1"] if request.param == "v" else epsilon_base


@pytest.mark.parametrize("scheduler", THEIRS)
def test_a_drawing_is_the_pipelines(base: Path, scheduler: str) -> None:
    family = registry.family("sd1")
    parts = family.load(base)
    pipeline = StableDiffusionPipeline.from_pretrained(base, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = THEIRS[scheduler].from_config(pipeline.scheduler.config)
    picture = Picture(prompt="a red kite", negative="grey", seed=9, width=32, height=32, steps=5, scheduler=scheduler)
    # The first noise and that of every step that adds some come from this one generator, as ours.
    theirs = pipeline(
        "a red kite",
        negative_prompt="grey",
        num_inference_steps=5,
        guidance_scale=picture.guidance,
        height=32,
        width=32,
        generator=torch.Generator("cpu").manual_seed(9),
        output_type="pt",
    ).images
    ours = sample(family, parts, [picture])
    torch.testing.assert_close(ours, theirs * 2 - 1, atol=2e-4, rtol=0)


def test_predict_is_the_unets_own_forward_bit_for_bit(base: Path) -> None:
    family = registry.family("sd1")
    parts = family.load(base, parts=frozenset({Part.DENOISER}))
    unet = UNet2DConditionModel.from_pretrained(base / "unet").eval()
    noisy, hidden = torch.randn(3, 4, 8, 8), torch.randn(3, parts.facts.text_length, 16)
    steps = torch.tensor([0, 437, 999])
    with torch.no_grad():
        theirs = unet(noisy, steps, hidden).sample
        times = (steps.double() + 1) / 1000
        ours = family.predict(parts.denoiser, noisy, times, Conditioning({"hidden": hidden}), train_steps=1000)
    assert torch.equal(ours, theirs)


def test_the_schedule_is_diffusers_own(base: Path) -> None:
    parts = registry.family("sd1").load(base, parts=frozenset())
    theirs = DDIMScheduler.from_pretrained(base / "scheduler").alphas_cumprod.double()
    ours = torch.tensor(schedule.from_config(parts.facts.scheduler).signal, dtype=torch.float64).square()
    torch.testing.assert_close(ours, theirs, atol=2e-6, rtol=2e-5)


def test_noise_and_target_are_diffusers_own(base: Path) -> None:
    parts = registry.family("sd1").load(base, parts=frozenset())
    objective = registry.objective(parts.facts.objective)
    scheduler = DDIMScheduler.from_pretrained(base / "scheduler")
    levels = schedule.from_config(parts.facts.scheduler)
    clean, noise, steps = torch.randn(4, 4, 8, 8), torch.randn(4, 4, 8, 8), torch.tensor([0, 10, 500, 999])
    signal, level = (
        torch.tensor([table[int(k)] for k in steps]).view(-1, 1, 1, 1) for table in (levels.signal, levels.noise)
    )
    noisy = scheduler.add_noise(clean, noise, steps)
    torch.testing.assert_close(objective.noisy(clean, noise, signal, level), noisy, atol=1e-4, rtol=0)
    target = noise if objective.name == "epsilon" else scheduler.get_velocity(clean, noise, steps)
    torch.testing.assert_close(objective.target(clean, noise, signal, level), target, atol=1e-4, rtol=0)


def test_pictures_do_not_depend_on_their_neighbours(base: Path) -> None:
    family = registry.family("sd1")
    parts = family.load(base)
    wanted = [
        Picture(prompt="a red kite", seed=1, width=32, height=32, steps=3),
        Picture(prompt="a blue door", seed=2, width=32, height=32, steps=5, scheduler="euler", guidance=1.0),
        Picture(prompt="", seed=3, width=32, height=32, steps=4, guidance=2.0, guidance_rescale=0.5),
    ]
    together = sample(family, parts, wanted)
    for row, picture in enumerate(wanted):
        torch.testing.assert_close(sample(family, parts, [picture])[0], together[row], atol=1e-4, rtol=0)


def test_an_adapter_loads_with_peft_alone(bases: dict[str, Path], tmp_path: Path) -> None:
    rig = rigs.load(bases["sd1"], "sd1", "lora")
    rigs.taught(rig)
    rig.save(tmp_path)
    unet = UNet2DConditionModel.from_pretrained(bases["sd1"] / "unet").eval()
    theirs = rigs.with_denoiser(rig.parts, PeftModel.from_pretrained(unet, tmp_path).base_model.model)
    assert torch.equal(rigs.predict(rig.family, theirs), rigs.predict(rig.family, rig.parts))


def test_a_full_model_loads_with_diffusers_alone(bases: dict[str, Path], tmp_path: Path) -> None:
    rig = rigs.load(bases["sd1"], "sd1", "full")
    rigs.taught(rig, steps=2)
    rig.save(tmp_path)
    theirs = rigs.with_denoiser(rig.parts, UNet2DConditionModel.from_pretrained(tmp_path / "unet").eval())
    assert torch.equal(rigs.predict(rig.family, theirs), rigs.predict(rig.family, rig.parts))


def test_a_base_without_a_part_is_refused(tmp_path: Path) -> None:
    folder = build_sd1(tmp_path / "base")
    (folder / "vae" / "config.json").unlink()
    with pytest.raises(Invalid, match=r"vae/config\.json") as caught:
        registry.family("sd1").load(folder)
    assert caught.value.reason == "BASE_INCOMPLETE"


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    import json

    folder = build_sd1(tmp_path / "base")
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "block_out_channels": [16, 64]}))
    with pytest.raises(Corrupt) as caught:
        registry.family("sd1").load(folder, parts=frozenset({Part.DENOISER}))
    assert caught.value.reason == "WEIGHTS_SHAPE"


def test_a_pickle_is_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = build_sd1(tmp_path / "base")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(Invalid, match="pickle") as caught:
        registry.family("sd1").load(folder, parts=frozenset({Part.DENOISER}))
    assert caught.value.reason == "PICKLE_REFUSED"
    assert "convert" in caught.value.remedy
