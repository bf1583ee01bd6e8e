"""Z-Image in torch: load from a diffusers folder, encode, predict, decode."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from transformers import Qwen2Tokenizer, Qwen3Model

from marsam.diffusion.families.z_image.facts import BEFORE, FACTS, PATCH
from marsam.diffusion.parts import net as loading
from marsam.diffusion.spec import Components, Conditioning
from marsam.diffusion.text import plain

TEMPLATE = BEFORE + "{}<|im_end|>\n<|im_start|>assistant\n"
"""Qwen3's chat template for one message of a user, with room for an answer after thinking (`enable_thinking=True`)."""


class ZImage(loading.Assembled):
    """See `marsam.diffusion.spec.Family`. Text conditioning is what comes out of the encoder's last layer but one,
    `hidden` (B, L, W), and its `mask`."""

    facts = FACTS

    def classes(self, source: Path) -> loading.Classes:
        return loading.Classes(
            denoiser=ZImageTransformer2DModel,
            text={"tokenizer": Qwen2Tokenizer, "text_encoder": Qwen3Model},
            image_coder=AutoencoderKL,
        )

    def encode_text(self, parts: Components, captions: Sequence[str]) -> Conditioning:
        tokenizer, encoder = (loading.text_part(parts, name) for name in ("tokenizer", "text_encoder"))
        tokens = loading.tokens(
            tokenizer, [TEMPLATE.format(plain(caption)) for caption in captions], parts.facts.text_length
        ).to(parts.device)
        states = encoder(**tokens, output_hidden_states=True, use_cache=False).hidden_states
        return loading.masked(states[-2], tokens["attention_mask"])

    @torch.no_grad()
    def encode_image(self, parts: Components, pixels: torch.Tensor) -> torch.Tensor:
        return loading.scaled_mean(loading.image_coder(parts), pixels.to(parts.device))

    def decode(self, parts: Components, latents: torch.Tensor) -> torch.Tensor:
        return loading.unscaled_picture(loading.image_coder(parts), latents.to(parts.device))

    def predict(
        self, denoiser: Any, noisy: torch.Tensor, t: torch.Tensor, cond: Conditioning, *, train_steps: int
    ) -> torch.Tensor:
        dtype = denoiser.all_x_embedder[f"{PATCH}-1"].weight.dtype
        # The network's time is the share that is clean, and it says clean - noise. float64 until the base's own step,
        # and the rest as the maker reckons it, so that its time comes back exactly.
        step = (t.to(noisy.device, torch.float64) * train_steps).to(torch.float32)
        captions = loading.unpadded(cond.tensors["hidden"].to(noisy.device, dtype), cond.tensors.get("mask"))
        pictures = list(noisy.to(dtype).unsqueeze(2))
        said = denoiser(pictures, (train_steps - step) / train_steps, captions, return_dict=False)[0]
        return -torch.stack(said).squeeze(2).to(noisy.dtype)


FAMILY = ZImage()
