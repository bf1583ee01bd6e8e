"""FLUX.2 beside diffusers' own pipelines, klein's and dev's: drawings, the denoiser's forward, pictures and texts."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Pipeline,
    Flux2Transformer2DModel,
)
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu, format_input
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from transformers import Mistral3ForConditionalGeneration, PreTrainedTokenizerFast, ProcessorMixin, Qwen2TokenizerFast

from marsam.core.errors import Invalid
from marsam.diffusion import registry, schedule
from marsam.diffusion.families.flux2.facts import READERS, empirical_mu
from marsam.diffusion.sampling import Picture, initial_noise
from marsam.diffusion.spec import Conditioning, Part, kept
from tests.contract.families import drawing
from tests.contract.families import rig as rigs
from tests.contract.families.bases import BUILDERS
from tests.contract.families.tiny.flux2 import build

pytestmark = pytest.mark.slow

PROMPTS = [
    "a red kite",
    "طائرة ورقية حمراء",
    "",
    "a {brace}, a [IMG] mark and far more words than the template leaves room",
]
WIDTH, HEIGHT = 48, 32
"""A picture whose sides differ shows whether they are mixed up."""


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dev") / "base", dev=True)


@pytest.fixture(scope="module")
def fast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("fast") / "base", distilled=True)


@pytest.fixture(params=["klein", "dev"])
def base(request: pytest.FixtureRequest, bases: dict[str, Path], dev: Path) -> Path:
    return bases["flux2"] if request.param == "klein" else dev


class Words(ProcessorMixin):
    """The part of dev's processor that reads words: the other half needs libraries that Marsam does without."""

    def __init__(self, tokenizer: Any = None, chat_template: str | None = None) -> None:
        super().__init__(tokenizer, chat_template=chat_template)


def _words(folder: Path) -> Words:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return Words(tokenizer, chat_template=tokenizer.chat_template)


def _pipeline(base: Path) -> Any:
    if "Flux2KleinPipeline" in (base / "model_index.json").read_text():
        pipeline: Any = Flux2KleinPipeline.from_pretrained(base, local_files_only=True)
    else:
        pipeline = Flux2Pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(base / "scheduler"),
            vae=AutoencoderKLFlux2.from_pretrained(base / "vae"),
            text_encoder=Mistral3ForConditionalGeneration.from_pretrained(base / "text_encoder").eval(),
            tokenizer=_words(base / "tokenizer"),
            transformer=Flux2Transformer2DModel.from_pretrained(base / "transformer"),
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _theirs(pipeline: Any, picture: Picture, length: int, **more: Any) -> torch.Tensor:
    values: torch.Tensor = pipeline(
        prompt=picture.prompt,
        num_inference_steps=picture.steps,
        width=picture.width,
        height=picture.height,
        latents=initial_noise((16, picture.height // 8, picture.width // 8), picture.seed),
        max_sequence_length=length,
        **more,
    ).images
    return values


def _raw(pipeline: Any, latents: torch.Tensor) -> torch.Tensor:
    """A latent as the image coder has it, which is what klein's pipeline gives for `output_type="latent"`."""
    spread = (pipeline.vae.bn.running_var + pipeline.vae.config.batch_norm_eps).sqrt().view(1, -1, 1, 1)
    return pipeline._unpatchify_latents(latents * spread + pipeline.vae.bn.running_mean.view(1, -1, 1, 1))


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_drawing_of_klein_is_the_pipelines(bases: dict[str, Path], steps: int, guidance: float) -> None:
    family = registry.family("flux2")
    parts = family.load(bases["flux2"])
    length = parts.facts.text_length
    picture = Picture(
        prompt="a red kite", negative="grey", seed=9, width=WIDTH, height=HEIGHT, steps=steps, guidance=guidance
    )
    pipeline = _pipeline(bases["flux2"])
    with torch.no_grad():
        grey, _ = pipeline.encode_prompt("grey", max_sequence_length=length)
    more = {"guidance_scale": guidance, "negative_prompt_embeds": grey}
    ours = drawing.latents(family, parts, picture)[-1]
    theirs = _theirs(pipeline, picture, length, output_type="latent", **more)
    torch.testing.assert_close(_raw(pipeline, ours), theirs, atol=1e-5, rtol=0)
    shown = _theirs(pipeline, picture, length, output_type="pt", **more)
    torch.testing.assert_close(drawing.pixels(family, parts, picture), shown, atol=2e-4, rtol=0)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_drawing_of_dev_is_the_pipelines(dev: Path, steps: int, guidance: float) -> None:
    family = registry.family("flux2")
    parts = family.load(dev)
    picture = Picture(prompt="a red kite", seed=9, width=WIDTH, height=HEIGHT, steps=steps, guidance=guidance)
    pipeline = _pipeline(dev)
    ours = drawing.latents(family, parts, picture)[-1]
    theirs = _theirs(pipeline, picture, parts.facts.text_length, output_type="latent", guidance_scale=guidance)
    torch.testing.assert_close(pipeline._pack_latents(ours), theirs, atol=1e-5, rtol=0)
    shown = _theirs(pipeline, picture, parts.facts.text_length, output_type="pt", guidance_scale=guidance)
    torch.testing.assert_close(drawing.pixels(family, parts, picture), shown, atol=2e-4, rtol=0)


def test_a_distilled_klein_is_drawn_without_guidance_as_the_pipeline_draws_it(fast: Path) -> None:
    family = registry.family("flux2")
    parts = family.load(fast)
    facts = parts.facts
    picture = Picture(
        prompt="a red kite", seed=2, width=32, height=32, steps=facts.default_steps, guidance=facts.default_guidance
    )
    pipeline = _pipeline(fast)
    assert pipeline.config.is_distilled
    theirs = _theirs(pipeline, picture, facts.text_length, output_type="latent", guidance_scale=4.0)
    ours = drawing.latents(family, parts, picture)[-1]
    torch.testing.assert_close(_raw(pipeline, ours), theirs, atol=1e-5, rtol=0)


def test_the_forward_is_the_transformers_own(base: Path) -> None:
    family = registry.family("flux2")
    parts = family.load(base, parts=frozenset({Part.DENOISER}))
    theirs = Flux2Transformer2DModel.from_pretrained(base / "transformer").eval()
    noisy, hidden = torch.randn(3, 16, 4, 6), torch.randn(3, 20, 48)
    t = torch.tensor([0.013, 0.5, 1.0], dtype=torch.float64)
    with torch.no_grad():
        said = theirs(
            Flux2Pipeline._pack_latents(noisy),
            timestep=t.float(),
            guidance=torch.ones(3) if parts.facts.embedded_guidance else None,
            encoder_hidden_states=hidden,
            txt_ids=Flux2Pipeline._prepare_text_ids(hidden),
            img_ids=Flux2Pipeline._prepare_latent_ids(noisy),
        ).sample
        ours = family.predict(parts.denoiser, noisy, t, Conditioning({"hidden": hidden}), train_steps=1000)
    ids = Flux2Pipeline._prepare_latent_ids(noisy)
    assert torch.equal(ours, Flux2Pipeline._unpack_latents_with_ids(said, ids))


def test_every_part_of_the_conditioning_is_heard(dev: Path) -> None:
    family = registry.family("flux2")
    parts = family.load(dev, parts=frozenset({Part.DENOISER}))
    whole = {"hidden": torch.randn(1, 20, 48), "guidance": torch.tensor([2.0])}
    noisy = torch.randn(1, 16, 4, 4)

    def said(t: float = 0.5, **other: torch.Tensor) -> torch.Tensor:
        cond, times = Conditioning({**whole, **other}), torch.tensor([t], dtype=torch.float64)
        return family.predict(parts.denoiser, noisy, times, cond, train_steps=1000)

    with torch.no_grad():
        for name, value in whole.items():
            assert float((said(**{name: value + 1}) - said()).abs().max()) > 1e-4
        assert float((said(0.9) - said()).abs().max()) > 1e-4


def test_texts_are_the_pipelines_with_their_padding(base: Path) -> None:
    family = registry.family("flux2")
    parts = family.load(base, parts=frozenset({Part.TEXT}))
    ours = family.encode_text(parts, PROMPTS)
    with torch.no_grad():
        hidden, _ = _pipeline(base).encode_prompt(PROMPTS, max_sequence_length=parts.facts.text_length)
    assert set(ours.tensors) == {"hidden"}
    torch.testing.assert_close(ours.tensors["hidden"], hidden, atol=1e-6, rtol=0)


def test_kleins_template_is_the_tokenizers_own(bases: dict[str, Path]) -> None:
    tokenizer = Qwen2TokenizerFast.from_pretrained(bases["flux2"] / "tokenizer")
    for prompt in PROMPTS:
        theirs = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        assert READERS["qwen3"].prompt(prompt) == theirs


def test_devs_template_is_the_processors_own_around_the_makers_message(dev: Path) -> None:
    theirs = _words(dev / "tokenizer").apply_chat_template(
        format_input(PROMPTS, SYSTEM_MESSAGE), add_generation_prompt=False
    )
    assert [READERS["mistral3"].prompt(prompt) for prompt in PROMPTS] == theirs


def test_devs_tokens_are_those_of_its_file_whatever_class_its_configuration_names(dev: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    shutil.copytree(dev / "tokenizer", folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": "LlamaTokenizer"}))
    texts = [READERS["mistral3"].prompt(prompt) for prompt in PROMPTS]
    ours, named = (PreTrainedTokenizerFast.from_pretrained(where) for where in (dev / "tokenizer", folder))
    assert ours(texts, add_special_tokens=False).input_ids == named(texts, add_special_tokens=False).input_ids


def test_pictures_are_normalised_by_the_image_coders_statistics(base: Path) -> None:
    family = registry.family("flux2")
    parts = family.load(base, parts=frozenset({Part.IMAGE}))
    pipeline = _pipeline(base)
    pixels = torch.rand(2, 3, 32, 48) * 2 - 1
    with torch.no_grad():
        latents = pipeline._encode_vae_image(pixels, torch.Generator())
        back = pipeline.vae.decode(_raw(pipeline, latents)).sample
    ours = family.encode_image(parts, pixels)
    torch.testing.assert_close(ours, latents, atol=1e-5, rtol=0)
    torch.testing.assert_close(family.decode(parts, latents), back.clamp(-1, 1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("tokens", [16, 256, 4096, 4300, 4301, 16384])
@pytest.mark.parametrize("steps", [1, 4, 10, 50, 200])
def test_mu_is_the_makers(tokens: int, steps: int) -> None:
    assert empirical_mu(tokens, steps) == pytest.approx(compute_empirical_mu(tokens, steps), abs=1e-12)


def test_training_shifts_as_a_drawing_of_the_default_steps_does(base: Path) -> None:
    facts = registry.read_base_folder("flux2", base)
    line = schedule.of(facts, 32, 32)
    assert isinstance(line, schedule.Line)
    assert facts.flow is not None
    assert line.shift == pytest.approx(facts.flow.factor(16, 50))
    assert facts.flow.factor(16, 4) > facts.flow.factor(16, 50) > 1.0


def _configs(**changes: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What klein-base-4B's own files say, in short; `changes` by folder."""
    files: dict[str, dict[str, Any]] = {
        "transformer/config.json": {
            "_class_name": "Flux2Transformer2DModel",
            "guidance_embeds": False,
            "joint_attention_dim": 7680,
        },
        "vae/config.json": {
            "_class_name": "AutoencoderKLFlux2",
            "latent_channels": 32,
            "block_out_channels": [128, 256, 512, 512],
            "sample_size": 1024,
        },
        "text_encoder/config.json": {"model_type": "qwen3", "hidden_size": 2560, "num_hidden_layers": 36},
        "scheduler/scheduler_config.json": {
            "_class_name": "FlowMatchEulerDiscreteScheduler",
            "shift": 3.0,
            "use_dynamic_shifting": True,
        },
        "tokenizer/tokenizer_config.json": {"model_max_length": 131072},
        "model_index.json": {"_class_name": "Flux2KleinPipeline"},
    }
    for path, config in files.items():
        config.update(changes.get(path.split("/")[0].removesuffix(".json"), {}))
    return files


def test_the_makers_bases_are_read() -> None:
    klein = registry.read_base("flux2", _configs())
    assert (klein.embedded_guidance, klein.distilled, klein.text_length) == (False, False, 512)
    assert (klein.default_steps, klein.default_guidance, klein.default_side, klein.side_multiple) == (50, 4.0, 1024, 16)
    assert klein.latent_shape(1024, 768) == (128, 48, 64)
    assert klein.tokens(1024, 1024) == 4096
    assert klein.conditioning == {"hidden": (512, 7680)}
    fast = registry.read_base("flux2", _configs(model_index={"is_distilled": True}))
    assert (fast.distilled, fast.default_steps, fast.default_guidance) == (True, 4, 1.0)
    words = {"model_type": "mistral3", "text_config": {"hidden_size": 5120, "num_hidden_layers": 40}}
    transformer = {"guidance_embeds": True, "joint_attention_dim": 15360}
    dev = registry.read_base("flux2", _configs(text_encoder=words, transformer=transformer))
    assert (dev.embedded_guidance, dev.distilled) == (True, False)
    assert dev.conditioning == {"hidden": (512, 15360)}


def test_every_fault_is_told_at_once() -> None:
    changes = {
        "transformer": {"in_channels": 64, "joint_attention_dim": 64},
        "text_encoder": {"num_hidden_layers": 26},
        "vae": {"_class_name": "AutoencoderKL"},
    }
    with pytest.raises(Invalid) as caught:
        registry.read_base("flux2", _configs(**changes))
    assert [fault.reason for fault in caught.value.violations] == ["BASE_FAMILY", *["BASE_CHANNELS"] * 3]
    with pytest.raises(Invalid, match="gemma"):
        registry.read_base("flux2", _configs(text_encoder={"model_type": "gemma"}))


def test_its_base_is_no_other_familys_and_no_others_is_its(bases: dict[str, Path], dev: Path) -> None:
    for name in BUILDERS:
        if name == "flux2":
            continue
        for own in (bases["flux2"], dev):
            with pytest.raises(Invalid):
                registry.read_base_folder(name, own)
        with pytest.raises(Invalid):
            registry.read_base_folder("flux2", bases[name])


def test_only_the_layers_inside_the_blocks_are_quantised(bases: dict[str, Path]) -> None:
    family = registry.family("flux2")
    names = [n for n, m in family.empty_denoiser(bases["flux2"]).named_modules() if type(m) is torch.nn.Linear]
    left = {name for name in names if kept(name, family.facts.keep)}
    assert {name for name in names if "blocks." not in name} == left
    assert "single_stream_modulation.linear" in left


def test_adapters_sit_where_the_presets_say(bases: dict[str, Path]) -> None:
    found = {}
    for preset in ("attention", "all"):
        rig = rigs.load(bases["flux2"], "flux2", "lora", params={"targets": preset})
        found[preset] = {name.split(".lora_")[0] for name in rig.trained}
    single = {f"single_transformer_blocks.{block}.attn" for block in (0, 1)}
    assert found["attention"] == {
        *(f"transformer_blocks.0.attn.{layer}" for layer in ("to_q", "to_k", "to_v", "to_out.0")),
        *(f"{block}.to_qkv_mlp_proj" for block in single),
    }
    names = [n for n, m in rig.family.empty_denoiser(bases["flux2"]).named_modules() if type(m) is torch.nn.Linear]
    assert found["all"] == {name for name in names if "blocks." in name}
