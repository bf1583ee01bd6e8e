"""A tiny FLUX.1: the shape of dev, or of schnell."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel, T5TokenizerFast

from tests.contract.families import bases

T5_LENGTH = 14
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_t5_tokenizer(folder: Path) -> int:
    """A T5 tokenizer of Latin letters; all else is unknown to it, as Arabic is to the real one. Returns the size of its
    vocabulary."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in _LETTERS)]
    T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=T5_LENGTH).save_pretrained(folder)
    return len(pieces)


def build(folder: Path, *, schnell: bool = False) -> Path:
    """A FLUX.1 shape of 0.2 M parameters in diffusers layout: f4 latents of 8×8 for 32 px."""
    torch.manual_seed(0)
    letters = bases.write_tokenizer(folder / "tokenizer")
    pieces = write_t5_tokenizer(folder / "tokenizer_2")
    FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=16,
        guidance_embeds=not schnell,
        axes_dims_rope=(4, 6, 6),
    ).save_pretrained(folder / "transformer")
    AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        sample_size=bases.SIDE,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).save_pretrained(folder / "vae")
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=letters,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=bases.LENGTH,
            bos_token_id=letters - 2,
            eos_token_id=letters - 1,
        )
    ).save_pretrained(folder / "text_encoder")
    T5EncoderModel(
        T5Config(vocab_size=pieces, d_model=24, d_kv=8, d_ff=32, num_layers=2, num_heads=2, dropout_rate=0.0)
    ).save_pretrained(folder / "text_encoder_2")
    FlowMatchEulerDiscreteScheduler(
        shift=1.0 if schnell else 3.0, use_dynamic_shifting=not schnell, base_image_seq_len=4, max_image_seq_len=64
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "FluxPipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "FluxTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
