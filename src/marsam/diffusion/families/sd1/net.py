"""Stable Diffusion 1 and 2 shapes in torch: load from a diffusers folder, encode, predict, decode."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from marsam.diffusion.families.sd1.facts import FACTS
from marsam.diffusion.parts import net as loading
from marsam.diffusion.spec import Components, Conditioning
from marsam.diffusion.text import plain


class StableDiffusion1(loading.Assembled):
    """See `marsam.diffusion.spec.Family`. Text conditioning is the encoder's last hidden state, `hidden` (B, L, W)."""

    facts = FACTS

    def classes(self, source: Path) -> loading.Classes:
        return loading.Classes(
            denoiser=UNet2DConditionModel,
            text={"tokenizer": CLIPTokenizer, "text_encoder": CLIPTextModel},
            image_coder=AutoencoderKL,
        )

    def encode_text(self, parts: Components, captions: Sequence[str]) -> Conditioning:
        tokenizer, encoder = (loading.text_part(parts, name) for name in ("tokenizer", "text_encoder"))
        tokens = tokenizer(
            [plain(caption) for caption in captions],
            padding="max_length",
            max_length=parts.facts.text_length,
            truncation=True,
            return_tensors="pt",
        )
        return Conditioning({"hidden": encoder(tokens.input_ids.to(parts.device), return_dict=True).last_hidden_state})

    @torch.no_grad()
    def encode_image(self, parts: Components, pixels: torch.Tensor) -> torch.Tensor:
        return loading.scaled_mean(loading.image_coder(parts), pixels.to(parts.device))

    def decode(self, parts: Components, latents: torch.Tensor) -> torch.Tensor:
        return loading.unscaled_picture(loading.image_coder(parts), latents.to(parts.device))

    def predict(
        self, denoiser: Any, noisy: torch.Tensor, t: torch.Tensor, cond: Conditioning, *, train_steps: int
    ) -> torch.Tensor:
        dtype = denoiser.conv_in.weight.dtype
        # float64 until here, so that the base's own timestep comes back exactly.
        step = (t.to(noisy.device, torch.float64) * train_steps - 1.0).to(torch.float32)
        hidden = cond.tensors["hidden"].to(noisy.device, dtype)
        return denoiser(noisy.to(dtype), step, encoder_hidden_states=hidden, return_dict=False)[0].to(noisy.dtype)


FAMILY = StableDiffusion1()
