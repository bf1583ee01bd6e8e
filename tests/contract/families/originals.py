"""Bases as one file, the way that other programs keep them: under the makers' own names of the layers.

The way back from diffusers' names, which its library has not.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from marsam.diffusion.basefiles import read_json
from tests.contract.families.original_rules import DENOISERS, OPEN_CLIP, RESNET, UNET, VAE, Rules

Tensors = dict[str, torch.Tensor]


def tensors_of(folder: Path, part: str) -> Tensors:
    """The tensors of a part of a base in diffusers layout."""
    (file,) = (folder / part).glob("*.safetensors")
    return load_file(file)


def renamed(tensors: Mapping[str, torch.Tensor], rules: Rules) -> Tensors:
    """The tensors under their old names, joined and turned as the marks say."""
    pieces: dict[str, dict[int, torch.Tensor]] = {}
    for name, value in tensors.items():
        for pattern, old in rules:
            name = re.sub(pattern, old, name)
        if name.endswith("!"):
            name, value = name[:-1], torch.cat(tuple(reversed(value.chunk(2))))
        name, _, number = name.partition("#")
        pieces.setdefault(name, {})[int(number or 0)] = value
    return {name: torch.cat([found[k] for k in sorted(found)]) if len(found) > 1 else found[0]
            for name, found in pieces.items()}  # fmt: skip


def unet(folder: Path) -> Tensors:
    """The UNet as Stable Diffusion's makers count its blocks."""
    count = int(read_json(folder / "unet" / "config.json")["layers_per_block"])
    tensors = tensors_of(folder, "unet")
    attentive = {name.split(".")[1] for name in tensors if re.match(r"up_blocks\.\d+\.attentions", name)}

    def place(name: str) -> str:
        match = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name)
        if match is None:
            return name
        side, block, what, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if what == "downsamplers":
            return f"input_blocks.{(block + 1) * (count + 1)}.0.{rest.replace('conv', 'op')}"
        if what == "upsamplers":
            return f"output_blocks.{block * (count + 1) + count}.{2 if match[2] in attentive else 1}.{rest}"
        at = block * (count + 1) + layer + (side == "down")
        return f"{'input' if side == 'down' else 'output'}_blocks.{at}.{0 if what == 'resnets' else 1}.{rest}"

    found = {}
    for name, value in tensors.items():
        rules = RESNET if ".resnets." in name else ()
        (old,) = renamed({place(name): value}, (*UNET, *rules))
        found[old] = value
    return found


def vae(folder: Path) -> Tensors:
    """The VAE as Stable Diffusion's makers name its layers; its attention was made of convolutions then."""
    blocks = len(read_json(folder / "vae" / "config.json")["up_block_types"])

    def turned(match: re.Match[str]) -> str:
        return f".up.{blocks - 1 - int(match[1])}."

    tensors = {re.sub(r"\.up_blocks\.(\d+)\.", turned, name): v for name, v in tensors_of(folder, "vae").items()}
    return {
        name: value[:, :, None, None] if ".attn_1." in name and value.ndim == 2 else value
        for name, value in renamed(tensors, VAE).items()
    }


def clip(folder: Path, part: str) -> Tensors:
    """A text encoder in the layout of transformers, as published."""
    return {
        name if name.startswith(("text_", "shared", "encoder")) and part != "text_encoder" else published(name): value
        for name, value in tensors_of(folder, part).items()
    }


def published(name: str) -> str:
    """CLIP's name of a tensor in published files."""
    return name if name.startswith("text_") else f"text_model.{name}"


def open_clip(folder: Path, part: str) -> Tensors:
    """A CLIP text encoder in OpenCLIP's layout."""
    tensors = renamed({published(name): v for name, v in tensors_of(folder, part).items()}, OPEN_CLIP)
    return {name: v.T.contiguous() if name == "text_projection" else v for name, v in tensors.items()}


def _encoders(folder: Path, names: Mapping[str, str]) -> Tensors:
    return {
        f"text_encoders.{name}.transformer.{old}": value
        for part, name in names.items()
        for old, value in (tensors_of(folder, part) if name == "t5xxl" else clip(folder, part)).items()
    }


def _prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def _sd1(folder: Path) -> Tensors:
    return {
        **_prefixed("model.diffusion_model.", unet(folder)),
        **_prefixed("first_stage_model.", vae(folder)),
        **_prefixed("cond_stage_model.transformer.", clip(folder, "text_encoder")),
        # What such files have besides.
        "alphas_cumprod": torch.linspace(1, 0, 10),
        "model_ema.decay": torch.ones(()),
        "cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(12)[None],
    }


def _sdxl(folder: Path) -> Tensors:
    return {
        **_prefixed("model.diffusion_model.", unet(folder)),
        **_prefixed("first_stage_model.", vae(folder)),
        **_prefixed("conditioner.embedders.0.transformer.", clip(folder, "text_encoder")),
        **_prefixed("conditioner.embedders.1.model.", open_clip(folder, "text_encoder_2")),
        "conditioner.embedders.1.model.logit_scale": torch.ones(()),
    }


def _sd3(folder: Path) -> Tensors:
    encoders = {"text_encoder": "clip_l", "text_encoder_2": "clip_g", "text_encoder_3": "t5xxl"}
    return {
        **_prefixed("model.diffusion_model.", transformer(folder, "sd3")),
        **_prefixed("first_stage_model.", vae(folder)),
        **_encoders(folder, encoders),
    }


def _sana(folder: Path) -> Tensors:
    extra = {"pos_embed": torch.zeros(1, 4, 16), "y_embedder.y_embedding": torch.zeros(4, 16)}
    return {**transformer(folder, "sana"), **extra}


def transformer(folder: Path, family: str) -> Tensors:
    """A transformer under its makers' names."""
    return renamed(tensors_of(folder, "transformer"), DENOISERS[family])


FILES: Mapping[str, Callable[[Path], Tensors]] = {
    "sd1": _sd1,
    "sdxl": _sdxl,
    "sd3": _sd3,
    "sana": _sana,
    "z_image": lambda folder: transformer(folder, "z_image"),
    "flux2": lambda folder: _prefixed("model.diffusion_model.", transformer(folder, "flux2")),
    "qwen_image": lambda folder: _prefixed("model.diffusion_model.", transformer(folder, "qwen_image")),
}
"""Family → the tensors of one file with all that files of that family hold. FLUX.1's has a test of its own: its
converter knows one width only."""


def write(folder: Path, family: str, file: Path, **extra: Any) -> Path:
    """The base in `folder` as one file, and what is in `extra` besides."""
    tensors = {name: value.clone().contiguous() for name, value in {**FILES[family](folder), **extra}.items()}
    save_file(tensors, file, metadata={"modelspec.title": family})
    return file
