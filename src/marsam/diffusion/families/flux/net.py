"""FLUX.1 in torch: load from a diffusers folder, encode, predict, decode."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import CLIPTextModel, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from marsam.diffusion.families.flux.facts import FACTS, PATCH
from marsam.diffusion.parts import net as loading
from marsam.diffusion.spec import Components, Conditioning
from marsam.diffusion.text import plain

TRAINED_GUIDANCE = 1.0
"""The guidance that a base with embedded guidance is told while it trains: at 1 it says what an unguided network would,
which is what pictures teach (diffusers' training commands for FLUX.1 pass 1 too)."""


class Flux1(loading.Assembled):
    """See `marsam.diffusion.spec.Family`. Text conditioning is `hidden` (B, L, W), T5's last hidden state with its
    padding, which the base was trained to see, and `pooled` (B, V), CLIP's vector of the whole caption."""

    facts = FACTS

    def classes(self, source: Path) -> loading.Classes:
        return loading.Classes(
            denoiser=FluxTransformer2DModel,
            text={
                "tokenizer": CLIPTokenizer,
                "text_encoder": CLIPTextModel,
                "tokenizer_2": T5TokenizerFast,
                "text_encoder_2": T5EncoderModel,
            },
            image_coder=AutoencoderKL,
        )

    def encode_text(self, parts: Components, captions: Sequence[str]) -> Conditioning:
        clip, t5 = (loading.text_part(parts, name) for name in ("text_encoder", "text_encoder_2"))
        short, long = (loading.text_part(parts, name) for name in ("tokenizer", "tokenizer_2"))
        texts = [plain(caption) for caption in captions]
        positions = min(int(short.model_max_length), int(clip.config.max_position_embeddings))
        pooled = clip(_tokens(short, texts, positions).to(parts.device), return_dict=True).pooler_output
        hidden = t5(_tokens(long, texts, parts.facts.text_length).to(parts.device), return_dict=True).last_hidden_state
        return Conditioning({"hidden": hidden, "pooled": pooled})

    @torch.no_grad()
    def encode_image(self, parts: Components, pixels: torch.Tensor) -> torch.Tensor:
        return loading.scaled_mean(loading.image_coder(parts), pixels.to(parts.device))

    def decode(self, parts: Components, latents: torch.Tensor) -> torch.Tensor:
        return loading.unscaled_picture(loading.image_coder(parts), latents.to(parts.device))

    def predict(
        self, denoiser: Any, noisy: torch.Tensor, t: torch.Tensor, cond: Conditioning, *, train_steps: int
    ) -> torch.Tensor:
        device, dtype = noisy.device, denoiser.x_embedder.weight.dtype
        height, width = noisy.shape[2:]
        hidden, pooled = (cond.tensors[name].to(device, dtype) for name in ("hidden", "pooled"))
        guidance = None
        if denoiser.config.guidance_embeds:
            guidance = cond.tensors.get("guidance", torch.full((len(noisy),), TRAINED_GUIDANCE)).to(device)
        # Tokens of the caption all stand at the origin; those of the picture at (0, row, column).
        rows, columns = (torch.arange(side // PATCH, device=device, dtype=torch.float32) for side in (height, width))
        places = torch.cartesian_prod(torch.zeros(1, device=device), rows, columns)
        said = denoiser(
            hidden_states=loading.to_tokens(noisy, PATCH).to(dtype),
            timestep=t.to(device, torch.float32),
            guidance=guidance,
            pooled_projections=pooled,
            encoder_hidden_states=hidden,
            txt_ids=torch.zeros(hidden.shape[1], 3, device=device),
            img_ids=places,
            return_dict=False,
        )[0]
        return loading.from_tokens(said, (height, width), PATCH).to(noisy.dtype)


def _tokens(tokenizer: Any, texts: Sequence[str], length: int) -> torch.Tensor:
    """(B, length) token numbers, padded and cut to that length."""
    found = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    ids: torch.Tensor = found.input_ids
    return ids


FAMILY = Flux1()
