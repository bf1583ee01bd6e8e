"""Bases as one file, the way that other programs keep them: under the makers' own names of the layers.

The way back from diffusers' names, which its library has not. A rule replaces a piece of a name; `#0`, `#1` … at an end
are pieces of one tensor, `!` one whose halves change places.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from marsam.diffusion.basefiles import read_json

Tensors = dict[str, torch.Tensor]
Rules = tuple[tuple[str, str], ...]

_QKV: Rules = (
    (r"\.to_q\.(\w+)$", r".qkv.\1#0"),
    (r"\.to_k\.(\w+)$", r".qkv.\1#1"),
    (r"\.to_v\.(\w+)$", r".qkv.\1#2"),
)
_OUT: Rules = (
    (r"^proj_out\.", "final_layer.linear."),
    (r"^norm_out\.linear\.(\w+)$", r"final_layer.adaLN_modulation.1.\1!"),
)

DENOISERS: Mapping[str, Rules] = {
    "z_image": (
        (r"^all_final_layer\.2-1\.", "final_layer."),
        (r"^all_x_embedder\.2-1\.", "x_embedder."),
        (r"\.attention\.to_out\.0\.", ".attention.out."),
        (r"\.attention\.norm_([qk])\.", r".attention.\1_norm."),
        *_QKV,
    ),
    "qwen_image": (),
    "sd3": (
        (r"^pos_embed\.pos_embed$", "pos_embed"),
        (r"^pos_embed\.proj\.", "x_embedder.proj."),
        (r"^time_text_embed\.timestep_embedder\.", "t_embedder."),
        (r"^time_text_embed\.text_embedder\.", "y_embedder."),
        (r"_embedder\.linear_1\.", "_embedder.mlp.0."),
        (r"_embedder\.linear_2\.", "_embedder.mlp.2."),
        *_OUT,
        (
            r"^transformer_blocks\.2\.norm1_context\.linear\.(\w+)$",
            r"joint_blocks.2.context_block.adaLN_modulation.1.\1!",
        ),
        (r"^transformer_blocks\.", "joint_blocks."),
        (r"\.norm1\.linear\.", ".x_block.adaLN_modulation.1."),
        (r"\.norm1_context\.linear\.", ".context_block.adaLN_modulation.1."),
        (r"\.ff\.net\.0\.proj\.", ".x_block.mlp.fc1."),
        (r"\.ff\.net\.2\.", ".x_block.mlp.fc2."),
        (r"\.ff_context\.net\.0\.proj\.", ".context_block.mlp.fc1."),
        (r"\.ff_context\.net\.2\.", ".context_block.mlp.fc2."),
        (r"\.attn\.add_([qkv])_proj\.", r".context_block.attn.to_\1."),
        (r"\.attn\.norm_added_([qk])\.", r".context_block.attn.ln_\1."),
        (r"\.attn\.to_add_out\.", ".context_block.attn.proj."),
        (r"^(joint_blocks\.\d+)\.(attn2?)\.norm_([qk])\.", r"\1.x_block.\2.ln_\3."),
        (r"^(joint_blocks\.\d+)\.(attn2?)\.to_out\.0\.", r"\1.x_block.\2.proj."),
        (r"^(joint_blocks\.\d+)\.(attn2?)\.", r"\1.x_block.\2."),
        *_QKV,
    ),
    "flux": (
        (r"^time_text_embed\.timestep_embedder\.linear_1\.", "time_in.in_layer."),
        (r"^time_text_embed\.timestep_embedder\.linear_2\.", "time_in.out_layer."),
        (r"^time_text_embed\.text_embedder\.linear_1\.", "vector_in.in_layer."),
        (r"^time_text_embed\.text_embedder\.linear_2\.", "vector_in.out_layer."),
        (r"^time_text_embed\.guidance_embedder\.linear_1\.", "guidance_in.in_layer."),
        (r"^time_text_embed\.guidance_embedder\.linear_2\.", "guidance_in.out_layer."),
        (r"^context_embedder\.", "txt_in."),
        (r"^x_embedder\.", "img_in."),
        *_OUT,
        (r"^single_transformer_blocks\.(\d+)\.norm\.linear\.", r"single_blocks.\1.modulation.lin."),
        (r"^single_transformer_blocks\.(\d+)\.attn\.to_q\.(\w+)$", r"single_blocks.\1.linear1.\2#0"),
        (r"^single_transformer_blocks\.(\d+)\.attn\.to_k\.(\w+)$", r"single_blocks.\1.linear1.\2#1"),
        (r"^single_transformer_blocks\.(\d+)\.attn\.to_v\.(\w+)$", r"single_blocks.\1.linear1.\2#2"),
        (r"^single_transformer_blocks\.(\d+)\.proj_mlp\.(\w+)$", r"single_blocks.\1.linear1.\2#3"),
        (r"^single_transformer_blocks\.(\d+)\.proj_out\.", r"single_blocks.\1.linear2."),
        (r"^single_transformer_blocks\.(\d+)\.attn\.norm_q\.weight$", r"single_blocks.\1.norm.query_norm.scale"),
        (r"^single_transformer_blocks\.(\d+)\.attn\.norm_k\.weight$", r"single_blocks.\1.norm.key_norm.scale"),
        (r"^transformer_blocks\.", "double_blocks."),
        (r"\.norm1\.linear\.", ".img_mod.lin."),
        (r"\.norm1_context\.linear\.", ".txt_mod.lin."),
        (r"\.ff\.net\.0\.proj\.", ".img_mlp.0."),
        (r"\.ff\.net\.2\.", ".img_mlp.2."),
        (r"\.ff_context\.net\.0\.proj\.", ".txt_mlp.0."),
        (r"\.ff_context\.net\.2\.", ".txt_mlp.2."),
        (r"\.attn\.add_([qkv])_proj\.", r".txt_attn.to_\1."),
        (r"\.attn\.norm_added_q\.weight$", ".txt_attn.norm.query_norm.scale"),
        (r"\.attn\.norm_added_k\.weight$", ".txt_attn.norm.key_norm.scale"),
        (r"\.attn\.to_add_out\.", ".txt_attn.proj."),
        (r"\.attn\.norm_q\.weight$", ".img_attn.norm.query_norm.scale"),
        (r"\.attn\.norm_k\.weight$", ".img_attn.norm.key_norm.scale"),
        (r"\.attn\.to_out\.0\.", ".img_attn.proj."),
        (r"\.attn\.", ".img_attn."),
        *_QKV,
    ),
    "flux2": (
        (r"^x_embedder\.", "img_in."),
        (r"^context_embedder\.", "txt_in."),
        (r"^time_guidance_embed\.timestep_embedder\.linear_1\.", "time_in.in_layer."),
        (r"^time_guidance_embed\.timestep_embedder\.linear_2\.", "time_in.out_layer."),
        (r"^time_guidance_embed\.guidance_embedder\.linear_1\.", "guidance_in.in_layer."),
        (r"^time_guidance_embed\.guidance_embedder\.linear_2\.", "guidance_in.out_layer."),
        (r"^(\w+_stream_modulation\w*)\.linear\.", r"\1.lin."),
        *_OUT,
        (r"^single_transformer_blocks\.(\d+)\.attn\.to_qkv_mlp_proj\.", r"single_blocks.\1.linear1."),
        (r"^single_transformer_blocks\.(\d+)\.attn\.to_out\.", r"single_blocks.\1.linear2."),
        (r"^single_transformer_blocks\.(\d+)\.attn\.norm_q\.weight$", r"single_blocks.\1.norm.query_norm.scale"),
        (r"^single_transformer_blocks\.(\d+)\.attn\.norm_k\.weight$", r"single_blocks.\1.norm.key_norm.scale"),
        (r"^transformer_blocks\.", "double_blocks."),
        (r"\.attn\.norm_q\.weight$", ".img_attn.norm.query_norm.scale"),
        (r"\.attn\.norm_k\.weight$", ".img_attn.norm.key_norm.scale"),
        (r"\.attn\.norm_added_q\.weight$", ".txt_attn.norm.query_norm.scale"),
        (r"\.attn\.norm_added_k\.weight$", ".txt_attn.norm.key_norm.scale"),
        (r"\.attn\.to_out\.0\.", ".img_attn.proj."),
        (r"\.attn\.to_add_out\.", ".txt_attn.proj."),
        (r"\.ff\.linear_in\.", ".img_mlp.0."),
        (r"\.ff\.linear_out\.", ".img_mlp.2."),
        (r"\.ff_context\.linear_in\.", ".txt_mlp.0."),
        (r"\.ff_context\.linear_out\.", ".txt_mlp.2."),
        (r"\.attn\.add_([qkv])_proj\.", r".txt_attn.to_\1."),
        (r"\.attn\.", ".img_attn."),
        *_QKV,
    ),
    "sana": (
        (r"^patch_embed\.proj\.", "x_embedder.proj."),
        (r"^time_embed\.emb\.timestep_embedder\.linear_1\.", "t_embedder.mlp.0."),
        (r"^time_embed\.emb\.timestep_embedder\.linear_2\.", "t_embedder.mlp.2."),
        (r"^time_embed\.linear\.", "t_block.1."),
        (r"^caption_projection\.linear_([12])\.", r"y_embedder.y_proj.fc\1."),
        (r"^caption_norm\.", "attention_y_norm."),
        (r"^proj_out\.", "final_layer.linear."),
        (r"^scale_shift_table$", "final_layer.scale_shift_table"),
        (r"^transformer_blocks\.", "blocks."),
        (r"\.attn2\.to_q\.", ".cross_attn.q_linear."),
        (r"\.attn2\.to_k\.(\w+)$", r".cross_attn.kv_linear.\1#0"),
        (r"\.attn2\.to_v\.(\w+)$", r".cross_attn.kv_linear.\1#1"),
        (r"\.attn2\.to_out\.0\.", ".cross_attn.proj."),
        (r"\.attn1\.to_out\.0\.", ".attn.proj."),
        (r"\.attn1\.", ".attn."),
        (r"\.ff\.conv_inverted\.", ".mlp.inverted_conv.conv."),
        (r"\.ff\.conv_depth\.", ".mlp.depth_conv.conv."),
        (r"\.ff\.conv_point\.", ".mlp.point_conv.conv."),
        *_QKV,
    ),
}
"""Family → rules for its transformer."""

_RESNET: Rules = (
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.conv_shortcut\.", ".skip_connection."),
)
_UNET: Rules = (
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^add_embedding\.linear_1\.", "label_emb.0.0."),
    (r"^add_embedding\.linear_2\.", "label_emb.0.2."),
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
    (r"^mid_block\.resnets\.0\.", "middle_block.0."),
    (r"^mid_block\.attentions\.0\.", "middle_block.1."),
    (r"^mid_block\.resnets\.1\.", "middle_block.2."),
)
_VAE: Rules = (
    (r"\.down_blocks\.(\d+)\.resnets\.", r".down.\1.block."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
    (r"\.up\.(\d+)\.resnets\.", r".up.\1.block."),
    (r"\.up\.(\d+)\.upsamplers\.0\.", r".up.\1.upsample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.attn_1\.group_norm\.", ".attn_1.norm."),
    (r"\.attn_1\.to_([qkv])\.", r".attn_1.\1."),
    (r"\.attn_1\.to_out\.0\.", ".attn_1.proj_out."),
    (r"\.conv_norm_out\.", ".norm_out."),
)
_OPEN_CLIP: Rules = (
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_projection\.weight$", "text_projection"),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.q_proj\.(\w+)$", r".attn.in_proj_\1#0"),
    (r"\.self_attn\.k_proj\.(\w+)$", r".attn.in_proj_\1#1"),
    (r"\.self_attn\.v_proj\.(\w+)$", r".attn.in_proj_\1#2"),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
)


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
        rules = _RESNET if ".resnets." in name else ()
        (old,) = renamed({place(name): value}, (*_UNET, *rules))
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
        for name, value in renamed(tensors, _VAE).items()
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
    tensors = renamed({published(name): v for name, v in tensors_of(folder, part).items()}, _OPEN_CLIP)
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
