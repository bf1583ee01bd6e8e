"""Parity of sdxl with diffusers' own pipelines: captions, the empty one, frames, latents' numbers, whole drawings; and
what is no base of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from marsam.core.errors import Invalid
from marsam.diffusion import registry
from marsam.diffusion.precision import Precision
from marsam.diffusion.sampling import Picture, initial_noise, sample
from marsam.diffusion.spec import ALL_PARTS, Conditioning, Part
from tests.contract.families.tiny.sdxl import POOLED, TIME_WIDTH, WIDTHS, build

pytestmark = pytest.mark.slow

LONG = "a red kite over the old harbour at noon, and below it a blue door"
PLAYGROUND = {"mean": [-1.6574, 1.886, -1.383, 2.5155], "spread": [8.4927, 5.9022, 6.5498, 5.2299]}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory, bases: dict[str, Path]) -> dict[str, Path]:
    """The tiny base, and others that differ from it in one thing."""
    root = tmp_path_factory.mktemp("sdxl")
    return {
        "plain": bases["sdxl"],
        "v": build(root / "v", prediction="v_prediction"),
        "words": build(root / "words", zero_empty=False),
        "numbers": build(root / "numbers", **PLAYGROUND),
    }


def _pipeline(folder: Path, cls: Any = StableDiffusionXLPipeline) -> Any:
    pipeline = cls.from_pretrained(folder, local_files_only=True, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize(
    ("world", "scheduler", "negative"),
    [
        ("plain", "euler", "grey"),
        ("plain", "euler", ""),
        ("plain", "ddim", "grey"),
        ("plain", "dpm++", "grey"),
        ("v", "euler", "grey"),
        ("v", "dpm++", "grey"),
        ("words", "euler", ""),
        ("numbers", "euler", "grey"),
    ],
)
@pytest.mark.parametrize("steps", [1, 4])
def test_a_drawing_is_the_pipelines(
    worlds: dict[str, Path],
    world: str,
    scheduler: str,
    negative: str,
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    family = registry.family("sdxl")
    parts = family.load(worlds[world])
    pipeline = _pipeline(worlds[world])
    others = {"ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler}
    if scheduler in others:
        pipeline.scheduler = others[scheduler].from_config(pipeline.scheduler.config)
    width, height = 48, 32
    picture = Picture(
        prompt=LONG, negative=negative, seed=9, width=width, height=height, steps=steps, scheduler=scheduler
    )

    def theirs(kind: str) -> torch.Tensor:
        return pipeline(
            LONG,
            negative_prompt=negative or None,
            num_inference_steps=steps,
            guidance_scale=picture.guidance,
            width=width,
            height=height,
            latents=initial_noise(parts.facts.latent_shape(width, height), 9),
            output_type=kind,
        ).images

    torch.testing.assert_close(sample(family, parts, [picture]), theirs("pt") * 2 - 1, atol=2e-4, rtol=0)
    monkeypatch.setattr(family, "decode", lambda parts, latents: latents)
    torch.testing.assert_close(sample(family, parts, [picture]), theirs("latent"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("world", ["plain", "words"])
def test_captions_are_read_as_the_pipeline_reads_them(worlds: dict[str, Path], world: str) -> None:
    family = registry.family("sdxl")
    parts = family.load(worlds[world], parts=frozenset({Part.TEXT}))
    pipeline = _pipeline(worlds[world])
    for text in ("kite", LONG):
        with torch.no_grad():
            hidden, empty, pooled, empty_pooled = pipeline.encode_prompt(text)
        assert hidden.shape[-1] == sum(WIDTHS)
        for words, wanted in ((text, (hidden, pooled)), ("", (empty, empty_pooled))):
            ours = family.encode_text(parts, [words]).tensors
            assert torch.equal(ours["hidden"], wanted[0])
            assert torch.equal(ours["pooled"], wanted[1])


def test_a_caption_without_words_is_the_empty_one(worlds: dict[str, Path]) -> None:
    for world, zero in (("plain", True), ("words", False)):
        family = registry.family("sdxl")
        parts = family.load(worlds[world], parts=frozenset({Part.TEXT}))
        assert parts.facts.zero_empty is zero
        ours = family.encode_text(parts, ["", " \n", "ـ", "x"]).tensors
        for value in ours.values():
            assert torch.equal(value[0], value[1])
            assert torch.equal(value[0], value[2])
            assert bool((value[0] == 0).all()) is zero
            assert bool((value[3] != 0).any())


def test_what_the_empty_caption_is_belongs_to_the_cached_captions_key() -> None:
    assert "model_index.json" in registry.family_facts("sdxl").text_folders


def test_predict_is_the_unets_own_forward_bit_for_bit(worlds: dict[str, Path]) -> None:
    family = registry.family("sdxl")
    parts = family.load(worlds["plain"], parts=frozenset({Part.DENOISER}))
    unet = UNet2DConditionModel.from_pretrained(worlds["plain"] / "unet").eval().requires_grad_(False)
    pipeline = _pipeline(worlds["plain"])
    noisy, steps = torch.randn(3, 4, 4, 6), torch.tensor([0, 437, 999])
    cond = Conditioning({name: torch.randn(3, *shape) for name, shape in parts.facts.conditioning.items()})

    def ours(cond: Conditioning) -> torch.Tensor:
        with torch.no_grad():
            return family.predict(parts.denoiser, noisy, (steps.double() + 1) / 1000, cond, train_steps=1000)

    def theirs(**sizes: tuple[int, int]) -> torch.Tensor:
        ids = pipeline._get_add_time_ids(
            sizes["original"], sizes["corner"], sizes["target"], torch.float32, text_encoder_projection_dim=POOLED
        )
        told = {"text_embeds": cond.tensors["pooled"], "time_ids": ids.repeat(3, 1)}
        with torch.no_grad():
            return unet(noisy, steps, encoder_hidden_states=cond.tensors["hidden"], added_cond_kwargs=told).sample

    assert torch.equal(ours(cond), theirs(original=(32, 48), corner=(0, 0), target=(32, 48)))
    frame = torch.tensor([[700.0, 1001.0, 3.0, 17.0, 32.0, 48.0]]).repeat(3, 1)
    told = ours(cond.plus(frame=frame))
    assert torch.equal(told, theirs(original=(700, 1001), corner=(3, 17), target=(32, 48)))
    assert float((told - ours(cond)).abs().max()) > 1e-3


@pytest.mark.parametrize("name", ["hidden", "pooled"])
def test_the_prediction_depends_on_every_input(worlds: dict[str, Path], name: str) -> None:
    family = registry.family("sdxl")
    parts = family.load(worlds["plain"], parts=frozenset({Part.DENOISER}))
    noisy, time = torch.randn(2, 4, 4, 4), torch.tensor([0.5, 0.5], dtype=torch.float64)
    cond = Conditioning({key: torch.randn(2, *shape) for key, shape in parts.facts.conditioning.items()})
    other = cond.plus(**{name: torch.randn_like(cond.tensors[name])})
    with torch.no_grad():
        first, second, later = (
            family.predict(parts.denoiser, noisy, t, one, train_steps=1000)
            for t, one in ((time, cond), (time, other), (time + 0.4, cond))
        )
    assert float((first - second).abs().max()) > 1e-3
    assert float((first - later).abs().max()) > 1e-3


def test_a_frame_stays_exact_in_half_precision(worlds: dict[str, Path]) -> None:
    """bf16 holds 8 bits: of 1023 px it would make 1024."""
    family = registry.family("sdxl")
    parts = family.load(worlds["plain"], parts=frozenset({Part.DENOISER}), precision=Precision.BF16)
    seen = []
    parts.denoiser.add_time_proj.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    cond = Conditioning({key: torch.randn(1, *shape) for key, shape in parts.facts.conditioning.items()})
    frame = torch.tensor([[1023.0, 1001.0, 3.0, 17.0, 32.0, 32.0]])
    with torch.no_grad():
        family.predict(
            parts.denoiser,
            torch.randn(1, 4, 4, 4),
            torch.tensor([0.5], dtype=torch.float64),
            cond.plus(frame=frame),
            train_steps=1000,
        )
    assert seen[0].tolist() == frame[0].tolist()


@pytest.mark.parametrize("world", ["plain", "numbers"])
def test_pictures_are_encoded_as_the_pipeline_encodes_them(
    worlds: dict[str, Path], world: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda posterior, generator=None: posterior.mean)
    family = registry.family("sdxl")
    parts = family.load(worlds[world], parts=frozenset({Part.IMAGE}))
    pixels = torch.rand(2, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        theirs = _pipeline(worlds[world], StableDiffusionXLImg2ImgPipeline).prepare_latents(
            pixels, None, 2, 1, torch.float32, "cpu", add_noise=False
        )
    ours = family.encode_image(parts, pixels)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    coder: Any = parts.image_coder
    with torch.no_grad():
        again = coder.decode(coder.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
    torch.testing.assert_close(family.decode(parts, ours), again, atol=1e-5, rtol=0)


def test_the_image_coder_stays_in_full_precision(worlds: dict[str, Path]) -> None:
    parts = registry.family("sdxl").load(worlds["plain"], parts=ALL_PARTS, precision=Precision.BF16)
    assert {value.dtype for value in parts.image_coder.parameters()} == {torch.float32}  # type: ignore[union-attr]
    assert parts.denoiser.conv_in.weight.dtype == torch.bfloat16  # type: ignore[union-attr]


def test_facts_of_the_base(worlds: dict[str, Path]) -> None:
    facts = registry.read_base_folder("sdxl", worlds["plain"])
    assert (facts.objective, facts.default_side, facts.side_multiple) == ("epsilon", 32, 16)
    assert (facts.default_steps, facts.default_guidance) == (50, 5.0)
    assert registry.read_base_folder("sdxl", worlds["v"]).objective == "v"


def test_facts_of_the_published_base() -> None:
    encoder = {"max_position_embeddings": 77}
    facts = registry.read_base(
        "sdxl",
        {
            "unet/config.json": {
                "_class_name": "UNet2DConditionModel",
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "block_out_channels": [320, 640, 1280],
                "cross_attention_dim": 2048,
                "in_channels": 4,
                "projection_class_embeddings_input_dim": 2816,
                "sample_size": 128,
            },
            "vae/config.json": {"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512]},
            "text_encoder/config.json": {**encoder, "hidden_size": 768, "projection_dim": 768},
            "text_encoder_2/config.json": {**encoder, "hidden_size": 1280, "projection_dim": 1280},
            "scheduler/scheduler_config.json": {"_class_name": "EulerDiscreteScheduler"},
            "tokenizer/tokenizer_config.json": {"model_max_length": 77},
            "tokenizer_2/tokenizer_config.json": {"model_max_length": 77},
            "model_index.json": {
                "_class_name": "StableDiffusionXLPipeline",
                "text_encoder": ["transformers", "CLIPTextModel"],
            },
        },
    )
    assert facts.conditioning == {"hidden": (77, 2048), "pooled": (1280,)}
    assert (facts.latent_shape(1024, 1024), facts.default_side, facts.side_multiple) == ((4, 128, 128), 1024, 32)
    assert facts.zero_empty


def test_every_target_and_everything_kept_names_layers(bases: dict[str, Path]) -> None:
    facts = registry.family_facts("sdxl")
    denoiser: Any = registry.family("sdxl").empty_denoiser(bases["sdxl"])
    names = [name for name, layer in denoiser.named_modules() if isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)]
    for target in {target for preset in facts.targets.values() for target in preset}:
        assert any(name.endswith(f".{target}") for name in names), target
    for part in facts.keep:
        assert any(part in name for name in names), part


def test_the_base_is_of_one_family(bases: dict[str, Path]) -> None:
    def accepts(family: str, base: Path) -> bool:
        try:
            registry.read_base_folder(family, base)
        except Invalid:
            return False
        return True

    assert [name for name in registry.families() if accepts(name, bases["sdxl"])] == ["sdxl"]
    assert [name for name in registry.families() if accepts("sdxl", bases[name])] == ["sdxl"]


@pytest.mark.parametrize(
    ("file", "change", "words", "reason"),
    [
        ("unet/config.json", {"in_channels": 9}, "inpainting", "BASE_CHANNELS"),
        ("unet/config.json", {"in_channels": 8}, "instruction", "BASE_CHANNELS"),
        ("unet/config.json", {"time_cond_proj_dim": 256}, "latent consistency", "BASE_FAMILY"),
        (
            "unet/config.json",
            {"projection_class_embeddings_input_dim": POOLED + 5 * TIME_WIDTH},
            "refiner",
            "BASE_FAMILY",
        ),
        ("unet/config.json", {"addition_embed_type": None}, "not SDXL", "BASE_FAMILY"),
        ("unet/config.json", {"_class_name": "UNet3DConditionModel"}, "UNet3D", "BASE_FAMILY"),
        ("unet/config.json", {"cross_attention_dim": 2048}, "40 wide", "BASE_TEXT"),
        ("unet/config.json", {"addition_time_embed_dim": None}, "never writes", "BASE_MALFORMED"),
        ("vae/config.json", {"_class_name": "AutoencoderTiny"}, "AutoencoderTiny", "BASE_FAMILY"),
        ("vae/config.json", {"block_out_channels": [8, 8, 8]}, "4 px", "BASE_CHANNELS"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "sample", "BASE_OBJECTIVE"),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "EDMDPMSolverMultistepScheduler"},
            "EDM",
            "BASE_OBJECTIVE",
        ),
        ("text_encoder_2/config.json", {"max_position_embeddings": 9}, "12 and 9", "BASE_TEXT"),
    ],
)
def test_what_is_no_base_is_refused_by_name(
    bases: dict[str, Path], file: str, change: dict[str, Any], words: str, reason: str
) -> None:
    configs = _configs(bases["sdxl"])
    configs[file] = {**configs[file], **change}
    with pytest.raises(Invalid, match=words) as caught:
        registry.read_base("sdxl", configs)
    assert caught.value.reason == reason


def test_a_refiner_is_named_before_what_it_lacks(bases: dict[str, Path]) -> None:
    configs = _configs(bases["sdxl"])
    for path in ("text_encoder/config.json", "tokenizer/tokenizer_config.json"):
        del configs[path]
    index = {"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [None, None]}
    with pytest.raises(Invalid, match="refiner") as caught:
        registry.read_base("sdxl", {**configs, "model_index.json": index})
    assert caught.value.reason == "BASE_FAMILY"


def test_every_fault_is_told_at_once(bases: dict[str, Path]) -> None:
    configs = _configs(bases["sdxl"])
    configs["unet/config.json"] |= {"in_channels": 9, "time_cond_proj_dim": 256}
    configs["scheduler/scheduler_config.json"] |= {"prediction_type": "sample"}
    with pytest.raises(Invalid) as caught:
        registry.read_base("sdxl", configs)
    assert len(caught.value.violations) == 3


def _configs(base: Path) -> dict[str, dict[str, Any]]:
    return {path: json.loads((base / path).read_text()) for path in registry.family_facts("sdxl").config_files}


@pytest.mark.parametrize(
    ("scheduler", "distilled"),
    [
        ({}, False),
        ({"_class_name": "LCMScheduler"}, True),
        # SDXL-Turbo's own, and a base whose noise ends in noise alone.
        ({"_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing"}, True),
        ({"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}, False),
        ({"timestep_spacing": "trailing", "prediction_type": "v_prediction"}, False),
    ],
)
def test_a_scheduler_for_few_steps_tells_a_distilled_base(
    bases: dict[str, Path], scheduler: dict[str, Any], distilled: bool
) -> None:
    configs = _configs(bases["sdxl"])
    configs["scheduler/scheduler_config.json"] |= scheduler
    facts = registry.read_base("sdxl", configs)
    assert facts.distilled == distilled
    assert (facts.default_steps, facts.default_guidance) == ((4, 1.0) if distilled else (50, 5.0))
