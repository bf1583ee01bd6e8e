"""Parity of sana with diffusers' own pipeline, and what its makers do otherwise than others."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel

from marsam.core.errors import Invalid
from marsam.diffusion import registry, schedule
from marsam.diffusion.conditionings import join, trimmed
from marsam.diffusion.guidance import guide
from marsam.diffusion.sampling import Picture, Walk, initial_noise, sample
from marsam.diffusion.schedulers import make_scheduler
from marsam.diffusion.spec import Conditioning, Part
from tests.contract.families.tiny.sana import build

pytestmark = pytest.mark.slow
PROMPTS = ("A Red Kite", "طائرة ورقية حمراء فوق المدينة")


@pytest.fixture
def base(bases: dict[str, Path]) -> Path:
    return bases["sana"]


def _pipeline(base: Path) -> SanaPipeline:
    pipeline = SanaPipeline.from_pretrained(base, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _drawn(pipeline: SanaPipeline, prompt: str, *, steps: int, output: str) -> torch.Tensor:
    found: torch.Tensor = pipeline(
        prompt,
        negative_prompt="grey",
        num_inference_steps=steps,
        guidance_scale=4.5,
        height=32,
        width=32,
        latents=initial_noise((4, 8, 8), 9),
        output_type=output,
        use_resolution_binning=False,
        complex_human_instruction=None,
    ).images
    return found


def _picture(prompt: str, steps: int, **other: object) -> Picture:
    return Picture(prompt=prompt, negative="grey", seed=9, width=32, height=32, steps=steps, guidance=4.5, **other)  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_drawing_is_the_pipelines(base: Path, prompt: str) -> None:
    family = registry.family("sana")
    ours = sample(family, family.load(base), [_picture(prompt, 5)])
    theirs = _drawn(_pipeline(base), prompt, steps=5, output="pt")
    torch.testing.assert_close(ours, theirs * 2 - 1, atol=2e-4, rtol=0)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_one_step_is_the_pipelines(base: Path, prompt: str) -> None:
    family = registry.family("sana")
    parts = family.load(base)
    walk = Walk(parts.facts, _picture(prompt, 1))
    texts = family.encode_text(parts, [prompt, "grey"])
    t = torch.tensor([walk.t], dtype=torch.float64)
    with torch.no_grad():
        said = [
            family.predict(parts.denoiser, walk.model_input(), t, texts.rows([row]), train_steps=1000) for row in (0, 1)
        ]
    walk.advance(*said)
    torch.testing.assert_close(
        walk.latent, _drawn(_pipeline(base), prompt, steps=1, output="latent"), atol=1e-5, rtol=0
    )
    assert not torch.allclose(guide(said[0], said[1], 4.5), said[0])


def test_the_caption_is_read_as_the_pipeline_reads_it_without_its_instruction(base: Path) -> None:
    family = registry.family("sana")
    parts = family.load(base, parts=frozenset({Part.TEXT}))
    theirs, mask, *_ = _pipeline(base).encode_prompt(
        "A Red Kite", do_classifier_free_guidance=False, complex_human_instruction=None
    )
    ours = family.encode_text(parts, ["A Red Kite", "a"])
    length = int(mask.sum())
    assert ours.tensors["mask"].sum(dim=1).tolist() == [length, 2]  # the beginning counts as a token
    torch.testing.assert_close(ours.tensors["hidden"][0], theirs[0, :length], atol=1e-5, rtol=0)
    # Written large or small; beside another caption it rounds otherwise than alone.
    small = family.encode_text(parts, ["a red kite", "a"])
    assert torch.equal(small.tensors["hidden"], ours.tensors["hidden"])


def test_tokens_that_fill_up_change_nothing(base: Path) -> None:
    family = registry.family("sana")
    parts = family.load(base)
    texts = family.encode_text(parts, PROMPTS)
    noisy, t = torch.randn(1, 4, 8, 8), torch.tensor([0.4], dtype=torch.float64)
    with torch.no_grad():
        filled, alone = (
            family.predict(parts.denoiser, noisy, t, cond, train_steps=1000)
            for cond in (texts.rows([0]), trimmed(texts.rows([0])))
        )
    assert trimmed(texts.rows([0])).tensors["hidden"].shape[1] < texts.tensors["hidden"].shape[1]
    torch.testing.assert_close(filled, alone, atol=1e-6, rtol=0)
    joined = join([trimmed(texts.rows([row])) for row in (0, 1)])
    assert torch.equal(joined.tensors["mask"], texts.tensors["mask"])


def test_predict_is_the_transformers_own_forward(base: Path) -> None:
    family = registry.family("sana")
    parts = family.load(base, parts=frozenset({Part.DENOISER}))
    transformer = SanaTransformer2DModel.from_pretrained(base / "transformer").eval()
    noisy, hidden, steps = torch.randn(3, 4, 8, 8), torch.randn(3, 7, 16), torch.tensor([1, 437, 999])
    with torch.no_grad():
        theirs = transformer(noisy, hidden, steps).sample
        cond = Conditioning({"hidden": hidden})
        ours = family.predict(parts.denoiser, noisy, steps.double() / 1000, cond, train_steps=1000)
    assert torch.equal(ours, theirs)


def test_latents_are_scaled_by_the_bases_own_number(base: Path) -> None:
    family = registry.family("sana")
    parts = family.load(base, parts=frozenset({Part.IMAGE}))
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    raw = parts.image_coder.encode(pixels).latent  # type: ignore[union-attr, operator]
    torch.testing.assert_close(family.encode_image(parts, pixels), raw * 0.41407)


def test_times_are_shifted_as_the_scheduler_says(base: Path) -> None:
    facts = registry.read_base_folder("sana", base)
    assert schedule.of(facts, 32, 32) == schedule.Line(3.0)
    own, euler = (make_scheduler(facts, name, 4, width=32, height=32) for name in ("", "euler"))
    assert type(own).__name__ == "DPMSolverMultistepScheduler"
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(4)
    assert torch.equal(euler.timesteps, theirs.timesteps)


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("transformer", {"guidance_embeds": True}, "Sprint"),
        ("transformer", {"caption_channels": 99}, "99 wide"),
        ("transformer", {"_class_name": "FluxTransformer2DModel"}, "FluxTransformer2DModel"),
        ("vae", {"_class_name": "AutoencoderKL"}, "AutoencoderKL"),
        ("vae", {"latent_channels": 16}, "channels"),
    ],
)
def test_another_base_is_refused(tmp_path: Path, file: str, change: dict[str, object], words: str) -> None:
    folder = build(tmp_path / "base")
    path = folder / file / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(Invalid, match=words):
        registry.read_base_folder("sana", folder)
