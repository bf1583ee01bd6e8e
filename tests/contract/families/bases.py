"""Tiny bases of every family, made of the real classes: what the conformance suite runs on. One builder per family."""

import json
import pkgutil
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tests.contract.families import tiny

SIDE = 32
LENGTH = 12


def byte_letters() -> list[str]:
    """The 256 letters that byte-level BPE stands for bytes with (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    spare = 256
    letters = {}
    for byte in range(256):
        if byte in printable:
            letters[byte] = chr(byte)
        else:
            letters[byte] = chr(spare)
            spare += 1
    return [letters[byte] for byte in range(256)]


def write_tokenizer(folder: Path) -> int:
    """A CLIP tokenizer without merges: every byte a token. Returns the size of its vocabulary."""
    folder.mkdir(parents=True)
    letters = byte_letters()
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: row for row, word in enumerate(words)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=LENGTH).save_pretrained(
        folder
    )
    return len(words)


def build_sd1(folder: Path, *, prediction: str = "v_prediction") -> Path:
    """A Stable Diffusion 1 shape of 0.1 M parameters in diffusers layout: f4 latents of 8×8 for 32 px."""
    torch.manual_seed(0)
    vocabulary = write_tokenizer(folder / "tokenizer")
    UNet2DConditionModel(
        sample_size=SIDE // 4,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=8,
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        sample_size=SIDE,
    ).save_pretrained(folder / "vae")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=LENGTH,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
        )
    ).save_pretrained(folder / "text_encoder")
    zero_terminal = prediction == "v_prediction"
    DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type=prediction,
        rescale_betas_zero_snr=zero_terminal,
        timestep_spacing="trailing" if zero_terminal else "leading",
        set_alpha_to_one=False,
        steps_offset=0 if zero_terminal else 1,
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


BUILDERS: Mapping[str, Callable[[Path], Path]] = {
    "sd1": build_sd1,
    **{
        module.name: import_module(f"{tiny.__name__}.{module.name}").build
        for module in pkgutil.iter_modules(tiny.__path__)
    },
}
"""A new family adds a module to `tiny`; a test asserts that none is missing."""
