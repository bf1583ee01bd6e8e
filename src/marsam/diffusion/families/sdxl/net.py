"""Stable Diffusion XL in torch: load from a diffusers folder, encode, predict, decode."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from marsam.diffusion.families.sdxl.facts import FACTS, LATENT_FACTOR
from marsam.diffusion.parts import net as loading
from marsam.diffusion.spec import Components, Conditioning
from marsam.diffusion.text import plain


class StableDiffusionXL(loading.Assembled):
    """See `marsam.diffusion.spec.Family`.

    Text conditioning is `hidden` (B, L, W₁+W₂), both encoders' last hidden states but one side by side, and `pooled`
    (B, P), the second's projection of the whole caption. Padding counts: its makers mask nothing. The empty caption is
    zeros where the base says so, in training as in drawing: it was trained so.
    """

    facts = FACTS

    def classes(self, source: Path) -> loading.Classes:
        return loading.Classes(
            denoiser=UNet2DConditionModel,
            text={
                "tokenizer": CLIPTokenizer,
                "text_encoder": CLIPTextModel,
                "tokenizer_2": CLIPTokenizer,
                "text_encoder_2": CLIPTextModelWithProjection,
            },
            image_coder=AutoencoderKL,
        )

    def encode_text(self, parts: Components, captions: Sequence[str]) -> Conditioning:
        texts = [plain(caption) for caption in captions]
        read = [
            loading.text_part(parts, f"text_encoder{which}")(
                _tokens(loading.text_part(parts, f"tokenizer{which}"), texts, parts), output_hidden_states=True
            )
            for which in ("", "_2")
        ]
        hidden = torch.cat([output.hidden_states[-2] for output in read], dim=-1)
        pooled = read[1].text_embeds
        if parts.facts.zero_empty:
            empty = torch.tensor([not text for text in texts], device=pooled.device)
            hidden = hidden.masked_fill(empty.view(-1, 1, 1), 0.0)
            pooled = pooled.masked_fill(empty.view(-1, 1), 0.0)
        return Conditioning({"hidden": hidden, "pooled": pooled})

    @torch.no_grad()
    def encode_image(self, parts: Components, pixels: torch.Tensor) -> torch.Tensor:
        coder = loading.image_coder(parts)
        latents = coder.encode(pixels.to(parts.device, coder.dtype)).latent_dist.mode().float()
        mean, spread = _numbers(coder, latents)
        return (latents - mean) * coder.config.scaling_factor / spread

    def decode(self, parts: Components, latents: torch.Tensor) -> torch.Tensor:
        coder = loading.image_coder(parts)
        latents = latents.to(parts.device, torch.float32)
        mean, spread = _numbers(coder, latents)
        latents = latents * spread / coder.config.scaling_factor + mean
        return loading.in_range(coder.decode(latents.to(coder.dtype), return_dict=False)[0])

    def predict(
        self, denoiser: Any, noisy: torch.Tensor, t: torch.Tensor, cond: Conditioning, *, train_steps: int
    ) -> torch.Tensor:
        dtype = denoiser.conv_in.weight.dtype
        # float64 until here, so that the base's own timestep comes back exactly.
        step = (t.to(noisy.device, torch.float64) * train_steps - 1.0).to(torch.float32)
        frame = cond.tensors.get("frame", _whole(noisy)).to(noisy.device, torch.float32)
        told = {"text_embeds": cond.tensors["pooled"].to(noisy.device, dtype), "time_ids": frame}
        hidden = cond.tensors["hidden"].to(noisy.device, dtype)
        return denoiser(noisy.to(dtype), step, encoder_hidden_states=hidden, added_cond_kwargs=told, return_dict=False)[
            0
        ].to(noisy.dtype)


def _tokens(tokenizer: Any, texts: Sequence[str], parts: Components) -> torch.Tensor:
    """(B, L) token ids: each encoder has a tokenizer, and each tokenizer a padding token of its own."""
    tokens = tokenizer(
        list(texts),
        padding="max_length",
        max_length=parts.facts.text_length,
        truncation=True,
        return_tensors="pt",
    )
    return tokens.input_ids.to(parts.device)


def _numbers(coder: Any, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and spread (1, C, 1, 1) of the latents of a coder; where it does not give both, there is no shift."""
    mean, spread = coder.config.latents_mean, coder.config.latents_std
    if mean is None or spread is None:
        mean, spread = [0.0], [1.0]
    return latents.new_tensor(mean).view(1, -1, 1, 1), latents.new_tensor(spread).view(1, -1, 1, 1)


def _whole(noisy: torch.Tensor) -> torch.Tensor:
    """(B, 6): the frame of pictures that were not cut, from the size of their latents (B, C, h, w)."""
    height, width = (side * LATENT_FACTOR for side in noisy.shape[-2:])
    frame = [height, width, 0, 0, height, width]
    return torch.tensor([frame], dtype=torch.float32, device=noisy.device).expand(len(noisy), -1)


FAMILY = StableDiffusionXL()
