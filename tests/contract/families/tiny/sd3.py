"""A tiny Stable Diffusion 3.5: encoders of different widths, a block with dual attention, one without, and the last."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from tests.contract.families import bases

WIDTHS = (16, 12)
POOLED = (10, 14)
WIDTH = 40
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def build(folder: Path, *, t5: bool = True, dual: bool = True, **scheduler: Any) -> Path:
    """A Stable Diffusion 3.5 shape of 0.2 M parameters in diffusers layout: f4 latents of 8×8 for 32 px.

    Without `dual` it is 3.0's; without `t5` the third encoder is left out. `scheduler` replaces its numbers.
    """
    torch.manual_seed(0)
    vocabulary = bases.write_tokenizer(folder / "tokenizer")
    bases.write_tokenizer(folder / "tokenizer_2")
    # As in the real one: the second encoder's captions are padded with "!", the first one's with their end.
    CLIPTokenizer.from_pretrained(folder / "tokenizer_2", pad_token="!").save_pretrained(folder / "tokenizer_2")
    SD3Transformer2DModel(
        sample_size=bases.SIDE // 4,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=sum(POOLED),
        pos_embed_max_size=8,
        dual_attention_layers=(0,) if dual else (),
        qk_norm="rms_norm" if dual else None,
    ).save_pretrained(folder / "transformer")
    AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=4,
        sample_size=bases.SIDE,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).save_pretrained(folder / "vae")
    for name, width, projection in zip(("text_encoder", "text_encoder_2"), WIDTHS, POOLED, strict=True):
        CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=bases.LENGTH,
                projection_dim=projection,
                bos_token_id=vocabulary - 2,
                eos_token_id=vocabulary - 1,
            )
        ).save_pretrained(folder / name)
    if t5:
        pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((one, -3.0) for one in _LETTERS)]
        T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512).save_pretrained(folder / "tokenizer_3")
        T5EncoderModel(
            T5Config(
                vocab_size=len(pieces), d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0
            )
        ).save_pretrained(folder / "text_encoder_3")
    FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **scheduler}).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusion3Pipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_3": ["transformers", "T5EncoderModel"] if t5 else [None, None],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "tokenizer_3": ["transformers", "T5TokenizerFast"] if t5 else [None, None],
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
