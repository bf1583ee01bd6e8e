"""Tiny real models for the generator's tests: SD1 shapes with random weights, and random adapters for them."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WIDTH, TOKENS = 16, 16
TARGETS = (
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "conv1",
    "conv2",
    "conv_shortcut",
    "time_emb_proj",
)


def write_base(folder: Path, *, seed: int = 0) -> Path:
    """A base of about 0.2 million random parameters in diffusers layout: 16 px, latent 4×8×8, v-prediction, zero
    SNR.
    """
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
    )
    alphabet = sorted(ByteLevel.alphabet())
    words = [*alphabet, *(letter + "</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={word: index for index, word in enumerate(words)}, merges=[], model_max_length=TOKENS
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=TOKENS,
            bos_token_id=len(words) - 2,
            eos_token_id=len(words) - 1,
        )
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        steps_offset=1,
    )
    StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=text.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def write_adapter(
    folder: Path, base: Path, *, seed: int, rank: int = 4, targets: tuple[str, ...] = TARGETS, dora: bool = False
) -> Path:
    """A LoRA with random A and B on the layers of `base` whose names end in `targets`, in PEFT's layout; with `dora`
    lengths that are some way off the base's."""
    unet: Any = UNet2DConditionModel.from_pretrained(base / "unet")
    noise = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in unet.named_modules():
        if not any(name == target or name.endswith(f".{target}") for target in targets):
            continue
        shape = tuple(layer.weight.shape)
        fan = float(torch.tensor(shape[1:]).prod())
        down = torch.randn((rank, *shape[1:]), generator=noise) / fan**0.5
        up = torch.randn((shape[0], rank, *(1 for _ in shape[2:])), generator=noise) * 0.2
        tensors[f"base_model.model.{name}.lora_A.weight"] = down
        tensors[f"base_model.model.{name}.lora_B.weight"] = up
        if dora:
            lengths = layer.weight.detach().flatten(1).norm(dim=1)
            lengths = lengths * (1.0 + 0.2 * torch.randn(lengths.shape, generator=noise))
            tensors[f"base_model.model.{name}.lora_magnitude_vector"] = (
                lengths.view(1, -1, 1, 1) if shape[2:] else lengths
            )
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted(targets),
        "use_rslora": False,
        "use_dora": dora,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
