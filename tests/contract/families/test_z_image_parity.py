"""Parity of z_image with diffusers' own pipeline, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from peft import PeftModel

from marsam.core.errors import Invalid
from marsam.diffusion import registry, schedule
from marsam.diffusion.conditionings import join
from marsam.diffusion.families.z_image.net import TEMPLATE
from marsam.diffusion.sampling import Picture, initial_noise, sample
from marsam.diffusion.schedulers import make_scheduler, own_scheduler
from marsam.diffusion.spec import Components, Conditioning, Family, Part
from tests.contract.families import rig as rigs
from tests.contract.families.tiny.z_image import build

pytestmark = pytest.mark.slow

PICTURE = Picture(prompt="a red kite", negative="grey", seed=9, width=32, height=48, steps=4, guidance=4.5)


@pytest.fixture(scope="module")
def base(bases: dict[str, Path]) -> Path:
    return bases["z_image"]


@pytest.fixture(scope="module")
def family() -> Family:
    return registry.family("z_image")


@pytest.fixture(scope="module")
def parts(family: Family, base: Path) -> Components:
    return family.load(base)


@pytest.fixture(scope="module")
def pipeline(base: Path) -> ZImagePipeline:
    pipeline = ZImagePipeline.from_pretrained(base, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def theirs(pipeline: ZImagePipeline, parts: Components, picture: Picture, output: str, **options: Any) -> torch.Tensor:
    return pipeline(
        picture.prompt,
        negative_prompt=picture.negative,
        num_inference_steps=picture.steps,
        # Theirs is what is added to the conditional prediction, so that 0 is without.
        guidance_scale=picture.guidance - 1.0,
        height=picture.height,
        width=picture.width,
        latents=initial_noise(parts.facts.latent_shape(picture.width, picture.height), picture.seed),
        output_type=output,
        **options,
    ).images


def test_a_drawing_is_the_pipelines(family: Family, parts: Components, pipeline: ZImagePipeline) -> None:
    steps: list[torch.Tensor] = []

    def keep(pipe: Any, step: int, t: Any, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        steps.append(given["latents"].clone())
        return given

    last = theirs(pipeline, parts, PICTURE, "latent", callback_on_step_end=keep)
    assert len(steps) == PICTURE.steps
    torch.testing.assert_close(rigs.latents(family, parts, [PICTURE]), last, atol=1e-5, rtol=0)
    torch.testing.assert_close(rigs.first_step(family, parts, PICTURE), steps[0], atol=1e-5, rtol=0)
    pixels = theirs(pipeline, parts, PICTURE, "pt") * 2 - 1
    torch.testing.assert_close(sample(family, parts, [PICTURE]), pixels, atol=2e-4, rtol=0)


def test_guidance_of_one_is_the_pipelines_none(family: Family, parts: Components, pipeline: ZImagePipeline) -> None:
    plain = Picture(prompt="a blue door", seed=3, width=32, height=32, steps=3, guidance=1.0)
    torch.testing.assert_close(
        rigs.latents(family, parts, [plain]), theirs(pipeline, parts, plain, "latent"), atol=1e-5, rtol=0
    )


def test_the_defaults_are_the_pipelines(parts: Components) -> None:
    import inspect

    call = inspect.signature(ZImagePipeline.__call__).parameters
    assert parts.facts.default_guidance == call["guidance_scale"].default + 1.0
    assert parts.facts.default_steps == call["num_inference_steps"].default
    assert call["max_sequence_length"].default == 512


def test_times_are_the_pipelines_and_training_shifts_alike(parts: Components, pipeline: ZImagePipeline) -> None:
    theirs(pipeline, parts, PICTURE, "latent")
    ours = make_scheduler(parts.facts, "", PICTURE.steps, width=PICTURE.width, height=PICTURE.height)
    assert own_scheduler(parts.facts) == "euler"
    torch.testing.assert_close(ours.timesteps, pipeline.scheduler.timesteps, atol=1e-3, rtol=0)
    line = schedule.of(parts.facts, 32, 32)
    # The middle of the training times is where the pipeline's scheduler puts one half.
    assert line.draw(0.5) == pytest.approx(6.0 * 0.5 / (1.0 + 5.0 * 0.5))


def test_predict_is_the_transformers_own_forward_bit_for_bit(family: Family, parts: Components, base: Path) -> None:
    transformer = ZImageTransformer2DModel.from_pretrained(base / "transformer").eval()
    noisy, hidden = torch.randn(3, 16, 8, 8), torch.randn(3, 40, 32)
    mask = torch.arange(40).expand(3, 40) < torch.tensor([[40], [7], [33]])
    timesteps = torch.tensor([1000.0, 437.25, 17.5])
    cond = Conditioning({"hidden": hidden, "mask": mask})
    with torch.no_grad():
        captions = [row[keep] for row, keep in zip(hidden, mask, strict=True)]
        said = transformer(list(noisy.unsqueeze(2)), (1000 - timesteps) / 1000, captions, return_dict=False)[0]
        ours = family.predict(parts.denoiser, noisy, timesteps.double() / 1000, cond, train_steps=1000)
    assert torch.equal(ours, -torch.stack(said).squeeze(2))


def test_a_prediction_depends_on_text_and_time_and_not_on_padding(family: Family, parts: Components) -> None:
    noisy = torch.randn(1, 16, 8, 8)
    short, long = (family.encode_text(parts, [text]) for text in ("kite", "a red kite over a green field"))
    padded = join([short, long]).rows([0])
    assert padded.tensors["hidden"].shape[1] > short.tensors["hidden"].shape[1]

    def say(cond: Conditioning, t: float) -> torch.Tensor:
        time = torch.tensor([t], dtype=torch.float64)
        with torch.no_grad():
            return family.predict(parts.denoiser, noisy, time, cond, train_steps=1000)

    assert torch.equal(say(padded, 0.5), say(short, 0.5))
    assert float((say(long, 0.5) - say(short, 0.5)).abs().max()) > 1e-2
    assert float((say(short, 0.9) - say(short, 0.5)).abs().max()) > 1e-2


def test_text_is_encoded_as_the_pipeline_does(family: Family, parts: Components, pipeline: ZImagePipeline) -> None:
    captions = ["a red kite", "طائرة ورقية حمراء", ""]
    ours = family.encode_text(parts, captions)
    wanted, _ = pipeline.encode_prompt(list(captions), do_classifier_free_guidance=False)
    for row, value in enumerate(wanted):
        assert int(ours.tensors["mask"][row].sum()) == len(value)
        torch.testing.assert_close(ours.tensors["hidden"][row, : len(value)], value, atol=1e-5, rtol=0)
        assert not ours.tensors["hidden"][row, len(value) :].any()


def test_the_template_is_the_tokenizers_own(parts: Components) -> None:
    tokenizer = parts.text["tokenizer"]
    wanted = tokenizer.apply_chat_template(
        [{"role": "user", "content": "a {red} kite"}], tokenize=False, add_generation_prompt=True, enable_thinking=True
    )
    assert TEMPLATE.format("a {red} kite") == wanted
    # Its marks are tokens, not letters.
    assert len(tokenizer(TEMPLATE.format("")).input_ids) == len("user\n" + "\n" + "assistant\n") + 3


def test_a_caption_too_long_is_cut(family: Family, parts: Components) -> None:
    assert family.encode_text(parts, ["kite " * 200]).tensors["hidden"].shape == (1, parts.facts.text_length, 32)


def test_latents_are_shifted_then_scaled(family: Family, parts: Components, pipeline: ZImagePipeline) -> None:
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    vae = pipeline.vae
    with torch.no_grad():
        mean = vae.encode(pixels).latent_dist.mode()
    # As diffusers' training script for Z-Image does.
    wanted = (mean - vae.config.shift_factor) * vae.config.scaling_factor
    torch.testing.assert_close(family.encode_image(parts, pixels), wanted, atol=1e-6, rtol=0)


def test_an_adapter_loads_with_peft_alone(bases: dict[str, Path], tmp_path: Path) -> None:
    rig = rigs.load(bases["z_image"], "z_image", "lora")
    rigs.taught(rig)
    rig.save(tmp_path)
    transformer = ZImageTransformer2DModel.from_pretrained(bases["z_image"] / "transformer").eval()
    theirs = rigs.with_denoiser(rig.parts, PeftModel.from_pretrained(transformer, tmp_path).base_model.model)
    assert torch.equal(rigs.predict(rig.family, theirs), rigs.predict(rig.family, rig.parts))


Configs = dict[str, dict[str, Any]]


def configs(base: Path) -> Configs:
    return {path: json.loads((base / path).read_text()) for path in registry.family_facts("z_image").config_files}


def _omni(files: Configs) -> None:
    files["transformer/config.json"]["siglip_feat_dim"] = 1152


def _patches(files: Configs) -> None:
    files["transformer/config.json"]["all_patch_size"] = [4]


def _encoder(files: Configs) -> None:
    files["text_encoder/config.json"]["model_type"] = "gemma2"


def _width(files: Configs) -> None:
    files["text_encoder/config.json"]["hidden_size"] = 48


def _channels(files: Configs) -> None:
    files["vae/config.json"]["latent_channels"] = 4


def _scheduler(files: Configs) -> None:
    files["scheduler/scheduler_config.json"]["_class_name"] = "DDIMScheduler"


FAULTS: list[tuple[Callable[[Configs], None], str]] = [
    (_omni, "Omni"),
    (_patches, "patches"),
    (_encoder, "gemma2"),
    (_width, "width"),
    (_channels, "channels"),
    (_scheduler, "DDIMScheduler"),
]


@pytest.mark.parametrize(("spoil", "word"), FAULTS)
def test_what_is_no_base_of_the_family_is_refused(base: Path, spoil: Callable[[Configs], None], word: str) -> None:
    files = configs(base)
    spoil(files)
    with pytest.raises(Invalid, match=word) as caught:
        registry.read_base("z_image", files)
    assert len(caught.value.violations) == 1


def test_every_fault_is_told_at_once(base: Path) -> None:
    files = configs(base)
    for spoil, _ in FAULTS:
        spoil(files)
    with pytest.raises(Invalid) as caught:
        registry.read_base("z_image", files)
    assert len(caught.value.violations) == len(FAULTS)


def test_a_base_without_a_part_is_refused(tmp_path: Path) -> None:
    folder = build(tmp_path / "base")
    (folder / "text_encoder" / "config.json").unlink()
    with pytest.raises(Invalid, match=r"text_encoder/config\.json") as caught:
        registry.family("z_image").load(folder, parts=frozenset({Part.DENOISER}))
    assert caught.value.reason == "BASE_INCOMPLETE"
