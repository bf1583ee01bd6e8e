"""Parity of qwen_image with diffusers' own pipeline, and what it refuses."""

import inspect
import json
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from peft import PeftModel

from marsam.core.errors import Invalid
from marsam.diffusion import registry, schedule
from marsam.diffusion.conditionings import join
from marsam.diffusion.families.qwen_image.net import AFTER, BEFORE
from marsam.diffusion.parts import net as loading
from marsam.diffusion.sampling import Picture, initial_noise, sample
from marsam.diffusion.schedulers import make_scheduler, own_scheduler
from marsam.diffusion.spec import Components, Conditioning, Family, Part
from tests.contract.families import rig as rigs
from tests.contract.families import words
from tests.contract.families.tiny.qwen_image import CHANNELS, WIDTH, build

pytestmark = pytest.mark.slow

PICTURE = Picture(prompt="a red kite", negative="grey", seed=9, width=32, height=48, steps=4, guidance=4.0)


@pytest.fixture(scope="module")
def base(bases: dict[str, Path]) -> Path:
    return bases["qwen_image"]


@pytest.fixture(scope="module")
def family() -> Family:
    return registry.family("qwen_image")


@pytest.fixture(scope="module")
def parts(family: Family, base: Path) -> Components:
    return family.load(base)


@pytest.fixture(scope="module")
def pipeline(base: Path) -> QwenImagePipeline:
    pipeline = QwenImagePipeline.from_pretrained(base, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def theirs(pipeline: QwenImagePipeline, picture: Picture, output: str, **options: Any) -> torch.Tensor:
    shape = (CHANNELS, picture.height // 4, picture.width // 4)
    said: torch.Tensor = pipeline(
        picture.prompt,
        negative_prompt=picture.negative,
        num_inference_steps=picture.steps,
        true_cfg_scale=picture.guidance,
        height=picture.height,
        width=picture.width,
        latents=pipeline._pack_latents(initial_noise(shape, picture.seed), 1, *shape),
        output_type=output,
        **options,
    ).images
    return unpacked(pipeline, said, picture) if output == "latent" else said


def unpacked(pipeline: QwenImagePipeline, latents: torch.Tensor, picture: Picture) -> torch.Tensor:
    return pipeline._unpack_latents(latents, picture.height, picture.width, pipeline.vae_scale_factor).squeeze(2)


def test_a_drawing_is_the_pipelines(family: Family, parts: Components, pipeline: QwenImagePipeline) -> None:
    steps: list[torch.Tensor] = []

    def keep(pipe: Any, step: int, t: Any, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        steps.append(unpacked(pipeline, given["latents"], PICTURE))
        return given

    last = theirs(pipeline, PICTURE, "latent", callback_on_step_end=keep)
    assert len(steps) == PICTURE.steps
    torch.testing.assert_close(rigs.first_step(family, parts, PICTURE), steps[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(rigs.latents(family, parts, [PICTURE]), last, atol=1e-5, rtol=0)
    pixels = theirs(pipeline, PICTURE, "pt") * 2 - 1
    torch.testing.assert_close(sample(family, parts, [PICTURE]), pixels, atol=2e-4, rtol=0)


def test_guidance_of_one_is_the_pipelines_none(family: Family, parts: Components, pipeline: QwenImagePipeline) -> None:
    plain = replace(PICTURE, guidance=1.0, seed=3)
    torch.testing.assert_close(
        rigs.latents(family, parts, [plain]), theirs(pipeline, plain, "latent"), atol=1e-5, rtol=0
    )


def test_the_defaults_are_the_pipelines(parts: Components, pipeline: QwenImagePipeline) -> None:
    call = inspect.signature(QwenImagePipeline.__call__).parameters
    assert parts.facts.default_guidance == call["true_cfg_scale"].default
    assert parts.facts.default_steps == call["num_inference_steps"].default
    assert call["max_sequence_length"].default == 512
    assert parts.facts.default_side == pipeline.default_sample_size * pipeline.vae_scale_factor


def test_times_are_the_pipelines(parts: Components, pipeline: QwenImagePipeline) -> None:
    theirs(pipeline, PICTURE, "latent")
    ours = make_scheduler(parts.facts, "", PICTURE.steps, width=PICTURE.width, height=PICTURE.height)
    assert own_scheduler(parts.facts) == "euler"
    torch.testing.assert_close(ours.timesteps, pipeline.scheduler.timesteps, atol=1e-3, rtol=0)
    assert float(ours.sigmas[-2]) == pytest.approx(0.02, abs=1e-6)


def test_training_shifts_by_the_pictures_size_and_knows_no_last_step(parts: Components) -> None:
    facts = replace(parts.facts, latent_factor=8)
    line = schedule.of(facts, 1024, 1024)
    shift = math.exp(0.5 + 0.4 * (4096 - 256) / (8192 - 256))
    assert line.draw(0.5) == pytest.approx(shift / (shift + 1.0))
    assert schedule.of(facts, 512, 512).draw(0.5) < line.draw(0.5)
    assert line.draw(1e-6) < 0.02


def test_predict_is_the_transformers_own_forward_bit_for_bit(family: Family, parts: Components, base: Path) -> None:
    transformer = QwenImageTransformer2DModel.from_pretrained(base / "transformer").eval()
    noisy, hidden = torch.randn(3, CHANNELS, 12, 8), torch.randn(3, 40, WIDTH)
    mask = torch.arange(40).expand(3, 40) < torch.tensor([[40], [7], [33]])
    timesteps = torch.tensor([1000.0, 437.25, 17.5])
    for tensors in ({"hidden": hidden, "mask": mask}, {"hidden": hidden}):
        with torch.no_grad():
            said = transformer(
                hidden_states=QwenImagePipeline._pack_latents(noisy, 3, CHANNELS, 12, 8),
                encoder_hidden_states=hidden,
                encoder_hidden_states_mask=tensors.get("mask"),
                timestep=timesteps / 1000,
                img_shapes=[[(1, 6, 4)]] * 3,
                return_dict=False,
            )[0]
            times = timesteps.double() / 1000
            ours = family.predict(parts.denoiser, noisy, times, Conditioning(tensors), train_steps=1000)
        assert torch.equal(ours, QwenImagePipeline._unpack_latents(said, 48, 32, 4).squeeze(2))


def test_a_prediction_depends_on_text_and_time_and_not_on_padding(family: Family, parts: Components) -> None:
    noisy = torch.randn(1, CHANNELS, 8, 8)
    short, long = (family.encode_text(parts, [text]) for text in ("kite", "a red kite over a green field"))
    padded = join([short, long]).rows([0])
    assert padded.tensors["hidden"].shape[1] > short.tensors["hidden"].shape[1]

    def say(cond: Conditioning, t: float) -> torch.Tensor:
        time = torch.tensor([t], dtype=torch.float64)
        with torch.no_grad():
            return family.predict(parts.denoiser, noisy, time, cond, train_steps=1000)

    torch.testing.assert_close(say(padded, 0.5), say(short, 0.5), atol=1e-6, rtol=0)
    assert float((say(long, 0.5) - say(short, 0.5)).abs().max()) > 1e-2
    assert float((say(short, 0.9) - say(short, 0.5)).abs().max()) > 1e-2


def test_text_is_encoded_as_the_pipeline_does(family: Family, parts: Components, pipeline: QwenImagePipeline) -> None:
    captions = ["a red kite", "طائرة ورقية حمراء", ""]
    ours = family.encode_text(parts, captions)
    wanted, mask = pipeline.encode_prompt(list(captions))
    assert torch.equal(ours.tensors["mask"], mask.bool())
    torch.testing.assert_close(ours.tensors["hidden"], wanted, atol=1e-5, rtol=0)


def test_the_template_is_the_makers_and_so_is_what_is_dropped(parts: Components, pipeline: QwenImagePipeline) -> None:
    assert f"{BEFORE}{{}}{AFTER}" == pipeline.prompt_template_encode
    assert len(parts.text["tokenizer"](BEFORE).input_ids) == pipeline.prompt_template_encode_start_idx


def test_in_another_vocabulary_the_template_is_dropped_all_the_same(tmp_path: Path) -> None:
    folder = build(tmp_path / "base")
    # Without the template's words there are 160 tokens before the prompt, not 34.
    words.write_qwen(folder / "tokenizer", length=64, chat=None)
    family = registry.family("qwen_image")
    mask = family.encode_text(family.load(folder, parts=frozenset({Part.TEXT})), ["kite"]).tensors["mask"]
    assert int(mask.sum()) == len("kite") + len("\n" + "assistant" + "\n") + 2


def test_a_caption_too_long_is_cut(family: Family, parts: Components) -> None:
    assert family.encode_text(parts, ["kite " * 200]).tensors["hidden"].shape == (1, parts.facts.text_length, WIDTH)


def test_latents_are_centred_and_scaled_by_channel(
    family: Family, parts: Components, pipeline: QwenImagePipeline
) -> None:
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    config = pipeline.vae.config
    mean, spread = (torch.tensor(each).view(1, -1, 1, 1, 1) for each in (config.latents_mean, config.latents_std))
    with torch.no_grad():
        # As diffusers' training script for Qwen-Image does.
        wanted = (pipeline.vae.encode(pixels.unsqueeze(2)).latent_dist.mode() - mean) / spread
    torch.testing.assert_close(family.encode_image(parts, pixels), wanted.squeeze(2), atol=1e-6, rtol=0)


def test_pictures_are_decoded_side_by_side(family: Family, parts: Components, pipeline: QwenImagePipeline) -> None:
    latents = [torch.randn(1, CHANNELS, 24, 24) for _ in range(2)]
    alone = [family.decode(parts, latent) for latent in latents]
    # Both have begun when either goes on.
    begun, coder = Barrier(2, timeout=30), loading.image_coder(parts)

    def meet(module: Any, given: Any, said: Any) -> None:
        begun.wait()

    hook = coder.post_quant_conv.register_forward_hook(meet)
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda latent: family.decode(parts, latent), latents))
    hook.remove()
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
    config = pipeline.vae.config
    mean, spread = (torch.tensor(each).view(1, -1, 1, 1, 1) for each in (config.latents_mean, config.latents_std))
    with torch.no_grad():
        theirs = pipeline.vae.decode(latents[0].unsqueeze(2) * spread + mean, return_dict=False)[0][:, :, 0]
    assert torch.equal(alone[0], theirs)


def test_an_adapter_leaves_out_what_no_prediction_depends_on(bases: dict[str, Path]) -> None:
    rig = rigs.load(bases["qwen_image"], "qwen_image", "lora")
    first, last = ({name for name in rig.trained if f"blocks.{block}." in name} for block in (0, 1))
    lost = {name.replace("blocks.0.", "blocks.1.") for name in first} - last
    assert {name.split(".lora_")[0] for name in lost} == {
        f"transformer_blocks.1.{name}"
        for name in ("attn.add_q_proj", "attn.to_add_out", "txt_mlp.net.0.proj", "txt_mlp.net.2")
    }


def test_an_adapter_loads_with_peft_alone(bases: dict[str, Path], tmp_path: Path) -> None:
    rig = rigs.load(bases["qwen_image"], "qwen_image", "lora")
    rigs.taught(rig)
    rig.save(tmp_path)
    transformer = QwenImageTransformer2DModel.from_pretrained(bases["qwen_image"] / "transformer").eval()
    theirs = rigs.with_denoiser(rig.parts, PeftModel.from_pretrained(transformer, tmp_path).base_model.model)
    assert torch.equal(rigs.predict(rig.family, theirs), rigs.predict(rig.family, rig.parts))


Configs = dict[str, dict[str, Any]]


def configs(base: Path) -> Configs:
    return {path: json.loads((base / path).read_text()) for path in registry.family_facts("qwen_image").config_files}


def _edit(files: Configs) -> None:
    files["transformer/config.json"]["zero_cond_t"] = True


def _layers(files: Configs) -> None:
    files["transformer/config.json"]["use_layer3d_rope"] = True


def _guidance(files: Configs) -> None:
    files["transformer/config.json"]["guidance_embeds"] = True


def _coder(files: Configs) -> None:
    files["vae/config.json"]["_class_name"] = "AutoencoderKLWan"


def _encoder(files: Configs) -> None:
    files["text_encoder/config.json"]["model_type"] = "qwen3_vl"


def _width(files: Configs) -> None:
    files["text_encoder/config.json"]["text_config"]["hidden_size"] = 48


def _channels(files: Configs) -> None:
    files["vae/config.json"]["z_dim"] = 16


def _scheduler(files: Configs) -> None:
    files["scheduler/scheduler_config.json"]["_class_name"] = "DDIMScheduler"


FAULTS: list[tuple[Callable[[Configs], None], str]] = [
    (_edit, "Edit"),
    (_layers, "Layered"),
    (_guidance, "guidance"),
    (_coder, "AutoencoderKLWan"),
    (_encoder, "qwen3_vl"),
    (_width, "width"),
    (_channels, "channels"),
    (_scheduler, "DDIMScheduler"),
]


@pytest.mark.parametrize(("spoil", "word"), FAULTS)
def test_what_is_no_base_of_the_family_is_refused(base: Path, spoil: Callable[[Configs], None], word: str) -> None:
    files = configs(base)
    spoil(files)
    with pytest.raises(Invalid, match=word) as caught:
        registry.read_base("qwen_image", files)
    assert len(caught.value.violations) == 1


def test_every_fault_is_told_at_once(base: Path) -> None:
    files = configs(base)
    for spoil, _ in FAULTS:
        spoil(files)
    with pytest.raises(Invalid) as caught:
        registry.read_base("qwen_image", files)
    assert len(caught.value.violations) == len(FAULTS)


def test_a_text_encoders_old_flat_file_is_read_alike(base: Path) -> None:
    files = configs(base)
    encoder = files["text_encoder/config.json"]
    flat = {**encoder, **encoder.pop("text_config"), "model_type": "qwen2_5_vl"}
    known = registry.read_base("qwen_image", configs(base))
    found = registry.read_base("qwen_image", {**files, "text_encoder/config.json": flat})
    assert replace(found, flow=None) == replace(known, flow=None)
