"""FLUX.1 beside diffusers' own pipeline: drawings, the denoiser's forward, pictures and texts as its parts see them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from marsam.core.errors import Invalid
from marsam.diffusion import registry, schedule
from marsam.diffusion.sampling import Picture, initial_noise
from marsam.diffusion.spec import Conditioning, Part, kept
from tests.contract.families import drawing
from tests.contract.families import rig as rigs
from tests.contract.families.bases import BUILDERS
from tests.contract.families.tiny.flux import build

pytestmark = pytest.mark.slow

WIDE = (48, 32)
"""Width and height in pixels: a picture whose sides differ shows whether they are mixed up."""


@pytest.fixture(scope="module")
def schnell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("schnell") / "base", schnell=True)


@pytest.fixture(params=["dev", "schnell"])
def base(request: pytest.FixtureRequest, bases: dict[str, Path], schnell: Path) -> Path:
    return bases["flux"] if request.param == "dev" else schnell


def _pipeline(base: Path) -> Any:
    pipeline = FluxPipeline.from_pretrained(base, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _theirs(pipeline: Any, picture: Picture, length: int, **more: Any) -> torch.Tensor:
    channels, factor = pipeline.transformer.config.in_channels // 4, pipeline.vae_scale_factor
    shape = (channels, picture.height // factor, picture.width // factor)
    noise = pipeline._pack_latents(initial_noise(shape, picture.seed), 1, *shape)
    values: torch.Tensor = pipeline(
        picture.prompt,
        negative_prompt=picture.negative,
        num_inference_steps=picture.steps,
        width=picture.width,
        height=picture.height,
        latents=noise,
        max_sequence_length=length,
        **more,
    ).images
    return values


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_drawing_is_the_pipelines(base: Path, steps: int, guidance: float) -> None:
    family = registry.family("flux")
    parts = family.load(base)
    embedded = 4.5 if parts.facts.embedded_guidance else None
    width, height = WIDE
    picture = Picture(
        prompt="a red kite",
        negative="grey",
        seed=9,
        width=width,
        height=height,
        steps=steps,
        guidance=guidance,
        embedded=embedded,
    )
    pipeline = _pipeline(base)
    more = {"true_cfg_scale": guidance, "guidance_scale": embedded or 0.0}
    ours = drawing.latents(family, parts, picture)[-1]
    theirs = _theirs(pipeline, picture, parts.facts.text_length, output_type="latent", **more)
    theirs = pipeline._unpack_latents(theirs, height, width, pipeline.vae_scale_factor)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    shown = _theirs(pipeline, picture, parts.facts.text_length, output_type="pt", **more)
    torch.testing.assert_close(drawing.pixels(family, parts, picture), shown, atol=2e-4, rtol=0)


def test_guidance_is_told_to_dev_and_not_done_twice(bases: dict[str, Path]) -> None:
    family = registry.family("flux")
    parts = family.load(bases["flux"])
    drawn = [
        drawing.latents(family, parts, Picture(prompt="a red kite", seed=1, width=32, height=32, steps=2, guidance=g))
        for g in (1.0, 3.5)
    ]
    assert not torch.equal(drawn[0][-1], drawn[1][-1])
    told = Picture(prompt="a red kite", seed=1, width=32, height=32, steps=2, guidance=1.0, embedded=3.5)
    assert torch.equal(drawing.latents(family, parts, told)[-1], drawn[1][-1])


def test_the_forward_is_the_transformers_own(base: Path) -> None:
    family = registry.family("flux")
    parts = family.load(base, parts=frozenset({Part.DENOISER}))
    theirs = FluxTransformer2DModel.from_pretrained(base / "transformer").eval()
    noisy, hidden, pooled = torch.randn(3, 4, 8, 12), torch.randn(3, 14, 24), torch.randn(3, 16)
    t = torch.tensor([0.013, 0.5, 1.0], dtype=torch.float64)
    guidance = torch.ones(3) if parts.facts.embedded_guidance else None
    with torch.no_grad():
        said = theirs(
            FluxPipeline._pack_latents(noisy, 3, 4, 8, 12),
            timestep=t.float(),
            guidance=guidance,
            pooled_projections=pooled,
            encoder_hidden_states=hidden,
            txt_ids=torch.zeros(14, 3),
            img_ids=FluxPipeline._prepare_latent_image_ids(3, 4, 6, "cpu", torch.float32),
        ).sample
        cond = Conditioning({"hidden": hidden, "pooled": pooled})
        ours = family.predict(parts.denoiser, noisy, t, cond, train_steps=1000)
    assert torch.equal(ours, FluxPipeline._unpack_latents(said, 8 * 8, 12 * 8, 8))


def test_every_part_of_the_conditioning_is_heard(bases: dict[str, Path]) -> None:
    family = registry.family("flux")
    parts = family.load(bases["flux"], parts=frozenset({Part.DENOISER}))
    whole = {"hidden": torch.randn(1, 14, 24), "pooled": torch.randn(1, 16), "guidance": torch.tensor([2.0])}
    noisy = torch.randn(1, 4, 8, 8)

    def said(**other: torch.Tensor) -> torch.Tensor:
        cond, t = Conditioning({**whole, **other}), torch.tensor([0.5], dtype=torch.float64)
        return family.predict(parts.denoiser, noisy, t, cond, train_steps=1000)

    with torch.no_grad():
        for name, value in whole.items():
            assert float((said(**{name: value + 1}) - said()).abs().max()) > 1e-4


def test_texts_are_the_pipelines_with_their_padding(base: Path) -> None:
    family = registry.family("flux")
    parts = family.load(base, parts=frozenset({Part.TEXT}))
    prompts = ["a red kite", "طائرة ورقية حمراء", "", "much longer than either encoder takes"]
    ours = family.encode_text(parts, prompts)
    with torch.no_grad():
        hidden, pooled, _ = _pipeline(base).encode_prompt(prompts, None, max_sequence_length=parts.facts.text_length)
    assert torch.equal(ours.tensors["hidden"], hidden)
    assert torch.equal(ours.tensors["pooled"], pooled)
    assert set(ours.tensors) == {"hidden", "pooled"}


def test_pictures_are_shifted_before_they_are_scaled(bases: dict[str, Path]) -> None:
    family = registry.family("flux")
    parts = family.load(bases["flux"], parts=frozenset({Part.IMAGE}))
    pipeline = _pipeline(bases["flux"])
    # As ours is: where a weight trains, torch folds a product another way, and that rounds otherwise.
    pipeline.vae.requires_grad_(False)
    pixels = torch.rand(2, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        mean = pipeline.vae.encode(pixels).latent_dist.mean
        latents = (mean - 0.1159) * 0.3611
        back = pipeline.vae.decode(latents / 0.3611 + 0.1159).sample
        torch.testing.assert_close(family.encode_image(parts, pixels), latents, atol=1e-6, rtol=0)
        torch.testing.assert_close(family.decode(parts, latents), back.clamp(-1, 1), atol=1e-6, rtol=0)


def test_dev_shifts_by_the_size_of_the_picture_and_schnell_not_at_all(bases: dict[str, Path], schnell: Path) -> None:
    dev, fast = (registry.read_base_folder("flux", folder) for folder in (bases["flux"], schnell))
    assert dev.flow is not None
    assert fast.flow is not None
    for tokens in (16, 64, 4096):
        assert dev.flow.mu is not None
        assert dev.flow.mu(tokens, 4) == pytest.approx(calculate_shift(tokens, 4, 64, 0.5, 1.15))
        assert fast.flow.factor(tokens, 4) == 1.0
    line = schedule.of(dev, 32, 32)
    assert isinstance(line, schedule.Line)
    assert line.shift == pytest.approx(dev.flow.factor(16, 28))


def _configs(**changes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What dev's own files say, in short; `changes` by folder."""
    files: dict[str, dict[str, Any]] = {
        "transformer/config.json": {"_class_name": "FluxTransformer2DModel", "guidance_embeds": True},
        "vae/config.json": {
            "_class_name": "AutoencoderKL",
            "latent_channels": 16,
            "block_out_channels": [128, 256, 512, 512],
            "sample_size": 1024,
        },
        "text_encoder/config.json": {"hidden_size": 768},
        "text_encoder_2/config.json": {"d_model": 4096},
        "scheduler/scheduler_config.json": {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "shift": 3.0,
            "use_dynamic_shifting": True,
        },
        "tokenizer_2/tokenizer_config.json": {"model_max_length": 512},
    }
    for path, config in files.items():
        config.update(changes.get(path.split("/")[0], {}))
    return files


def test_the_makers_bases_are_read() -> None:
    dev = registry.read_base("flux", _configs())
    assert (dev.embedded_guidance, dev.distilled, dev.text_length) == (True, False, 512)
    assert (dev.default_steps, dev.default_guidance, dev.default_side, dev.side_multiple) == (28, 3.5, 1024, 16)
    assert dev.latent_shape(1024, 768) == (16, 96, 128)
    assert dev.tokens(1024, 1024) == 4096
    assert dev.conditioning == {"hidden": (512, 4096), "pooled": (768,)}
    still = {"shift": 1.0, "use_dynamic_shifting": False}
    fast = registry.read_base("flux", _configs(transformer={"guidance_embeds": False}, scheduler=still))
    assert (fast.embedded_guidance, fast.distilled, fast.text_length) == (False, True, 256)
    assert (fast.default_steps, fast.default_guidance) == (4, 1.0)


def test_every_fault_is_told_at_once() -> None:
    changes = {
        "transformer": {"in_channels": 384, "joint_attention_dim": 64},
        "scheduler": {"_class_name": "DDIMScheduler"},
    }
    with pytest.raises(Invalid) as caught:
        registry.read_base("flux", _configs(**changes))
    assert [fault.reason for fault in caught.value.violations] == ["BASE_FAMILY", "BASE_CHANNELS", "BASE_CHANNELS"]


def test_its_base_is_no_other_familys_and_no_others_is_its(bases: dict[str, Path]) -> None:
    for name in BUILDERS:
        if name == "flux":
            continue
        with pytest.raises(Invalid):
            registry.read_base_folder(name, bases["flux"])
        with pytest.raises(Invalid):
            registry.read_base_folder("flux", bases[name])


def test_all_layers_inside_the_blocks_are_quantised(bases: dict[str, Path]) -> None:
    family = registry.family("flux")
    names = [n for n, m in family.empty_denoiser(bases["flux"]).named_modules() if type(m) is torch.nn.Linear]
    left = [name for name in names if kept(name, family.facts.keep)]
    assert {"proj_out", "x_embedder", "context_embedder", "norm_out.linear"} <= set(left)
    assert "transformer_blocks.0.norm1_context.linear" not in left
    assert "single_transformer_blocks.0.proj_out" not in left
    assert "transformer_blocks.0.attn.to_q" not in left


def test_adapters_sit_where_the_presets_say(bases: dict[str, Path]) -> None:
    found = {}
    for preset in ("attention", "all"):
        rig = rigs.load(bases["flux"], "flux", "lora", params={"targets": preset})
        found[preset] = {name.split(".lora_")[0] for name in rig.trained}
    assert len(found["attention"]) == 8 + 2 * 3
    assert found["all"] - found["attention"] == {
        *(f"transformer_blocks.0.{ff}.{layer}" for ff in ("ff", "ff_context") for layer in ("net.0.proj", "net.2")),
        *(f"single_transformer_blocks.{k}.{layer}" for k in (0, 1) for layer in ("proj_mlp", "proj_out")),
        "proj_out",
    }
