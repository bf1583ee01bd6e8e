"""Parity of sd3 with diffusers' own pipeline: captions with and without T5, times, latents' numbers, whole drawings;
and what is no base of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

from marsam.core.errors import Invalid
from marsam.diffusion import registry, schedule
from marsam.diffusion.adapter.parts import net as parts_of_adapters
from marsam.diffusion.families.sd3.facts import T5_LENGTH
from marsam.diffusion.precision import Precision
from marsam.diffusion.sampling import Picture, Walk, initial_noise
from marsam.diffusion.spec import ALL_PARTS, Conditioning, Part
from tests.contract.families import drawing
from tests.contract.families.bases import LENGTH
from tests.contract.families.tiny.sd3 import WIDTH, WIDTHS, build

pytestmark = pytest.mark.slow

LONG = "a red kite over the old harbour at noon, and below it a blue door"


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory, bases: dict[str, Path]) -> dict[str, Path]:
    """The tiny base, and others that differ from it in one thing."""
    root = tmp_path_factory.mktemp("sd3")
    dynamic = {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 64}
    return {
        "3.5": bases["sd3"],
        "3.0": build(root / "plain", dual=False),
        "without T5": build(root / "without", t5=False),
        "dynamic": build(root / "dynamic", **dynamic),
    }


def _pipeline(folder: Path) -> Any:
    # The third encoder's parts must be refused by name where they are not there.
    absent = {name: None for name in ("text_encoder_3", "tokenizer_3") if not (folder / name).is_dir()}
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, local_files_only=True, **absent)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize(
    ("world", "negative"), [("3.5", "grey"), ("3.5", ""), ("3.0", "grey"), ("without T5", "grey"), ("dynamic", "grey")]
)
@pytest.mark.parametrize("steps", [1, 4])
def test_a_drawing_is_the_pipelines(worlds: dict[str, Path], world: str, negative: str, steps: int) -> None:
    family = registry.family("sd3")
    parts = family.load(worlds[world])
    pipeline = _pipeline(worlds[world])
    width, height = 48, 32
    picture = Picture(prompt=LONG, negative=negative, seed=9, width=width, height=height, steps=steps, guidance=7.0)
    seen: list[torch.Tensor] = []

    def keep(pipeline: Any, step: int, time: Any, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        seen.append(given["latents"].clone())
        return {}

    theirs = pipeline(
        LONG,
        negative_prompt=negative or None,
        num_inference_steps=steps,
        guidance_scale=7.0,
        width=width,
        height=height,
        latents=initial_noise(parts.facts.latent_shape(width, height), 9),
        output_type="pt",
        callback_on_step_end=keep,
    ).images
    ours = drawing.latents(family, parts, picture)
    assert len(ours) == len(seen) == steps
    for mine, wanted in zip(ours, seen, strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(drawing.pixels(family, parts, picture), theirs, atol=2e-4, rtol=0)


@pytest.mark.parametrize("world", ["3.5", "without T5"])
def test_captions_are_read_as_the_pipeline_reads_them(worlds: dict[str, Path], world: str) -> None:
    family = registry.family("sd3")
    parts = family.load(worlds[world], parts=frozenset({Part.TEXT}))
    pipeline = _pipeline(worlds[world])
    for text in ("kite", LONG, ""):
        with torch.no_grad():
            hidden, _, pooled, _ = pipeline.encode_prompt(text, None, None, do_classifier_free_guidance=False)
        ours = family.encode_text(parts, [text]).tensors
        assert set(ours) == {"hidden", "pooled"}  # padding counts: there is no mask
        assert torch.equal(ours["hidden"], hidden)
        assert torch.equal(ours["pooled"], pooled)


def test_a_caption_is_clips_filled_up_and_then_t5s(worlds: dict[str, Path]) -> None:
    family = registry.family("sd3")
    whole, without = (
        family.encode_text(family.load(worlds[world], parts=frozenset({Part.TEXT})), ["kite"]).tensors["hidden"]
        for world in ("3.5", "without T5")
    )
    assert whole.shape == without.shape == (1, LENGTH + T5_LENGTH, WIDTH)
    assert torch.equal(whole[:, :LENGTH], without[:, :LENGTH])
    assert not whole[:, :LENGTH, sum(WIDTHS) :].any()
    assert whole[:, LENGTH:].any(dim=-1).all()
    assert not without[:, LENGTH:].any()


@pytest.mark.parametrize("world", ["3.5", "3.0"])
def test_predict_is_the_transformers_own_forward_bit_for_bit(worlds: dict[str, Path], world: str) -> None:
    family = registry.family("sd3")
    parts = family.load(worlds[world], parts=frozenset({Part.DENOISER}))
    theirs = SD3Transformer2DModel.from_pretrained(worlds[world] / "transformer").eval().requires_grad_(False)
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(worlds[world] / "scheduler")
    scheduler.set_timesteps(7)
    walk = Walk(parts.facts, Picture(prompt="", seed=1, width=32, height=32, steps=7))
    noisy = torch.randn(2, 4, 8, 12)
    cond = Conditioning({name: torch.randn(2, *shape) for name, shape in parts.facts.conditioning.items()})
    for step, time in enumerate(scheduler.timesteps):
        walk.index = step
        with torch.no_grad():
            wanted = theirs(noisy, cond.tensors["hidden"], cond.tensors["pooled"], time.expand(2)).sample
            t = torch.tensor([walk.t, walk.t], dtype=torch.float64)
            assert torch.equal(family.predict(parts.denoiser, noisy, t, cond, train_steps=1000), wanted)


@pytest.mark.parametrize("name", ["hidden", "pooled"])
def test_the_prediction_depends_on_every_input(worlds: dict[str, Path], name: str) -> None:
    family = registry.family("sd3")
    parts = family.load(worlds["3.5"], parts=frozenset({Part.DENOISER}))
    noisy, time = torch.randn(2, 4, 8, 8), torch.tensor([0.5, 0.5], dtype=torch.float64)
    cond = Conditioning({key: torch.randn(2, *shape) for key, shape in parts.facts.conditioning.items()})
    other = cond.plus(**{name: torch.randn_like(cond.tensors[name])})
    with torch.no_grad():
        first, second, later = (
            family.predict(parts.denoiser, noisy, t, one, train_steps=1000)
            for t, one in ((time, cond), (time, other), (time + 0.4, cond))
        )
    assert float((first - second).abs().max()) > 1e-3
    assert float((first - later).abs().max()) > 1e-3


def test_pictures_are_shifted_and_scaled(worlds: dict[str, Path]) -> None:
    family = registry.family("sd3")
    parts = family.load(worlds["3.5"], parts=frozenset({Part.IMAGE}))
    pixels = torch.rand(2, 3, 32, 48) * 2 - 1
    coder: Any = parts.image_coder
    with torch.no_grad():
        mean = coder.encode(pixels).latent_dist.mean
        again = coder.decode(mean).sample.clamp(-1, 1)
    ours = family.encode_image(parts, pixels)
    torch.testing.assert_close(ours, (mean - 0.0609) * 1.5305, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(family.decode(parts, ours), again, atol=1e-5, rtol=0)
    whole = family.load(worlds["3.5"], parts=ALL_PARTS, precision=Precision.BF16)
    assert {value.dtype for value in whole.image_coder.parameters()} == {torch.float32}  # type: ignore[union-attr]


def test_training_times_are_those_of_the_schedulers_own_table(worlds: dict[str, Path]) -> None:
    facts = registry.read_base_folder("sd3", worlds["3.5"])
    line = schedule.of(facts, 32, 32)
    theirs = FlowMatchEulerDiscreteScheduler.from_pretrained(worlds["3.5"] / "scheduler").sigmas
    ours = torch.tensor([schedule.shifted(1 - k / 1000, 3.0) for k in range(1000)])
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    # The middle of the logit-normal law, moved by the shift: 3·½ / (1 + 2·½).
    assert line.draw(0.5) == pytest.approx(0.75)
    assert facts.objective == "flow"


def test_facts_of_the_base(worlds: dict[str, Path]) -> None:
    facts = registry.read_base_folder("sd3", worlds["3.5"])
    assert (facts.default_side, facts.side_multiple, facts.patch, facts.tokens(48, 32)) == (32, 8, 2, 24)
    assert (facts.default_steps, facts.default_guidance, facts.embedded_guidance) == (28, 7.0, False)


def test_facts_of_the_published_base() -> None:
    """3.5-medium's configurations, as far as they are read; what they leave out stands at the classes' defaults."""
    clip = {"max_position_embeddings": 77}
    facts = registry.read_base(
        "sd3",
        {
            "transformer/config.json": {"_class_name": "SD3Transformer2DModel", "in_channels": 16, "sample_size": 128},
            "vae/config.json": {
                "_class_name": "AutoencoderKL",
                "block_out_channels": [128, 256, 512, 512],
                "latent_channels": 16,
            },
            "text_encoder/config.json": {**clip, "hidden_size": 768, "projection_dim": 768},
            "text_encoder_2/config.json": {**clip, "hidden_size": 1280, "projection_dim": 1280},
            "scheduler/scheduler_config.json": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
            "tokenizer/tokenizer_config.json": {"model_max_length": 77},
            "model_index.json": {"_class_name": "StableDiffusion3Pipeline"},
        },
    )
    assert facts.conditioning == {"hidden": (333, 4096), "pooled": (2048,)}
    assert (facts.latent_shape(1024, 1024), facts.default_side, facts.side_multiple) == ((16, 128, 128), 1024, 16)
    assert facts.tokens(1024, 1024) == 4096


def test_targets_and_what_is_kept(bases: dict[str, Path]) -> None:
    facts = registry.family_facts("sd3")
    denoiser: Any = registry.family("sd3").empty_denoiser(bases["sd3"])
    names = [name for name, layer in denoiser.named_modules() if isinstance(layer, torch.nn.Linear)]
    for target in {target for preset in facts.targets.values() for target in preset}:
        assert any(name.endswith(f".{target}") for name in names), target
    for part in facts.keep:
        assert any(part in name for name in names), part
    blocks = {name for name in names if ".norm" not in name and name.startswith("transformer_blocks")}
    assert {name for name in blocks if name.endswith(facts.targets["all"])} == blocks
    joint = {name for name in names if ".attn." in name}
    assert {name for name in blocks if name.endswith(facts.targets["attention"])} == joint
    assert any(".attn2." in name for name in blocks)


def test_a_base_of_the_older_shape_is_trained_and_left_alone_where_nothing_listens(worlds: dict[str, Path]) -> None:
    facts = registry.family_facts("sd3")
    idle = {}
    for world in ("3.0", "3.5"):
        denoiser = registry.family("sd3").load(worlds[world], parts=frozenset({Part.DENOISER})).denoiser
        assert denoiser is not None
        idle[world] = parts_of_adapters.idle(denoiser, facts.idle)
        trained = registry.method("full").attach({"transformer": denoiser}, facts, {}, seed=1)
        assert not any(name.startswith(tuple(idle[world])) for name in trained)
    assert idle["3.0"] == ("transformer_blocks.2.attn.add_q_proj",)
    assert idle["3.5"] == ("transformer_blocks.2.attn.add_q_proj", "transformer_blocks.2.attn.norm_added_q")


@pytest.mark.parametrize(
    ("file", "change", "words", "reason"),
    [
        ("transformer/config.json", {"_class_name": "FluxTransformer2DModel"}, "FluxTrans", "BASE_FAMILY"),
        ("transformer/config.json", {"in_channels": 33}, "channels", "BASE_CHANNELS"),
        ("transformer/config.json", {"joint_attention_dim": 20}, "wider than", "BASE_TEXT"),
        ("transformer/config.json", {"pooled_projection_dim": 2048}, "2048 wide", "BASE_TEXT"),
        ("transformer/config.json", {"in_channels": None}, "never writes", "BASE_MALFORMED"),
        ("vae/config.json", {"_class_name": "AutoencoderTiny"}, "AutoencoderTiny", "BASE_FAMILY"),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "EulerDiscreteScheduler"},
            "EulerDiscreteScheduler",
            "BASE_FAMILY",
        ),
        ("text_encoder_2/config.json", {"max_position_embeddings": 9}, "12 tokens", "BASE_TEXT"),
    ],
)
def test_what_is_no_base_is_refused_by_name(
    bases: dict[str, Path], file: str, change: dict[str, Any], words: str, reason: str
) -> None:
    configs = {
        path: json.loads((bases["sd3"] / path).read_text()) for path in registry.family_facts("sd3").config_files
    }
    configs[file] = {**configs[file], **change}
    with pytest.raises(Invalid, match=words) as caught:
        registry.read_base("sd3", configs)
    assert caught.value.reason == reason
