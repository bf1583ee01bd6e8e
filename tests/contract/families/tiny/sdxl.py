"""A tiny Stable Diffusion XL: f8 latents of 4×4 for 32 px, encoders of different widths, each with padding of its
own."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tests.contract.families.bases import LENGTH, SIDE, write_tokenizer

WIDTHS = (16, 24)
POOLED = 20
TIME_WIDTH = 8


def build(
    folder: Path,
    *,
    prediction: str = "epsilon",
    zero_empty: bool = True,
    mean: list[float] | None = None,
    spread: list[float] | None = None,
) -> Path:
    """A Stable Diffusion XL shape of 0.2 M parameters in diffusers layout, with random weights.

    `zero_empty` is the index's `force_zeros_for_empty_prompt`; `mean` and `spread` are those of the VAE's latents.
    """
    torch.manual_seed(0)
    vocabulary = write_tokenizer(folder / "tokenizer")
    write_tokenizer(folder / "tokenizer_2")
    # As in the real one: the second encoder's captions are padded with "!", the first one's with their end.
    CLIPTokenizer.from_pretrained(folder / "tokenizer_2", pad_token="!").save_pretrained(folder / "tokenizer_2")
    UNet2DConditionModel(
        sample_size=SIDE // 8,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        cross_attention_dim=sum(WIDTHS),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        norm_num_groups=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_WIDTH,
        projection_class_embeddings_input_dim=POOLED + 6 * TIME_WIDTH,
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        sample_size=SIDE,
        scaling_factor=0.13025,
        latents_mean=mean,
        latents_std=spread,
    ).save_pretrained(folder / "vae")
    for name, cls, width in (
        ("text_encoder", CLIPTextModel, WIDTHS[0]),
        ("text_encoder_2", CLIPTextModelWithProjection, WIDTHS[1]),
    ):
        cls(
            CLIPTextConfig(
                vocab_size=vocabulary,
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=LENGTH,
                projection_dim=POOLED,
                bos_token_id=vocabulary - 2,
                eos_token_id=vocabulary - 1,
            )
        ).save_pretrained(folder / name)
    EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        timestep_spacing="leading",
        steps_offset=1,
    ).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "feature_extractor": [None, None],
        "force_zeros_for_empty_prompt": zero_empty,
        "image_encoder": [None, None],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
