"""Sana in torch: load from a diffusers folder, encode, predict, decode."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderDC, SanaTransformer2DModel
from transformers import Gemma2Model, GemmaTokenizer

from marsam.diffusion.families.sana.facts import FACTS
from marsam.diffusion.parts import net as loading
from marsam.diffusion.spec import Components, Conditioning
from marsam.diffusion.text import plain


class Sana(loading.Assembled):
    """See `marsam.diffusion.spec.Family`. Text conditioning is Gemma's last hidden state, `hidden` (B, L, W), with its
    `mask` (B, L).

    The makers' "complex human instruction" is left out: it has Gemma rewrite the caption, in English.
    """

    facts = FACTS

    def classes(self, source: Path) -> loading.Classes:
        return loading.Classes(
            denoiser=SanaTransformer2DModel,
            text={"tokenizer": GemmaTokenizer, "text_encoder": Gemma2Model},
            image_coder=AutoencoderDC,
        )

    def encode_text(self, parts: Components, captions: Sequence[str]) -> Conditioning:
        tokenizer, encoder = (loading.text_part(parts, name) for name in ("tokenizer", "text_encoder"))
        tokens = tokenizer(
            [plain(caption).lower() for caption in captions],
            padding="longest",
            padding_side="right",
            max_length=parts.facts.text_length,
            truncation=True,
            return_tensors="pt",
        ).to(parts.device)
        hidden = encoder(tokens.input_ids, attention_mask=tokens.attention_mask, return_dict=True).last_hidden_state
        return Conditioning({"hidden": hidden, "mask": tokens.attention_mask.bool()})

    @torch.no_grad()
    def encode_image(self, parts: Components, pixels: torch.Tensor) -> torch.Tensor:
        coder = loading.image_coder(parts)
        return coder.encode(pixels.to(parts.device, coder.dtype)).latent.float() * coder.config.scaling_factor

    def decode(self, parts: Components, latents: torch.Tensor) -> torch.Tensor:
        coder = loading.image_coder(parts)
        latents = latents.to(parts.device, torch.float32) / coder.config.scaling_factor
        return loading.in_range(coder.decode(latents.to(coder.dtype), return_dict=False)[0])

    def predict(
        self, denoiser: Any, noisy: torch.Tensor, t: torch.Tensor, cond: Conditioning, *, train_steps: int
    ) -> torch.Tensor:
        dtype = denoiser.scale_shift_table.dtype
        step = t.to(noisy.device, torch.float64) * train_steps * denoiser.config.timestep_scale
        hidden, mask = cond.tensors["hidden"], cond.tensors.get("mask")
        velocity = denoiser(
            noisy.to(dtype),
            encoder_hidden_states=hidden.to(noisy.device, dtype),
            encoder_attention_mask=None if mask is None else mask.to(noisy.device, dtype),
            timestep=step.to(torch.float32),
            return_dict=False,
        )[0]
        # Early checkpoints learnt a variance too; it comes second, and no flow needs it.
        return velocity[:, : noisy.shape[1]].to(noisy.dtype)


FAMILY = Sana()
