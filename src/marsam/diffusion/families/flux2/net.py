"""FLUX.2 in torch: load from a diffusers folder, encode, predict, decode."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from transformers import (
    Mistral3ForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2TokenizerFast,
    Qwen3ForCausalLM,
)

from marsam.diffusion.basefiles import read_json
from marsam.diffusion.families.flux2.facts import FACTS, READERS
from marsam.diffusion.parts import net as loading
from marsam.diffusion.spec import Components, Conditioning
from marsam.diffusion.text import plain

TRAINED_GUIDANCE = 1.0
"""The guidance that a base with embedded guidance is told while it trains: at 1 it says what an unguided network would,
which is what pictures teach (diffusers' training commands for FLUX.2 pass 1 too)."""

# dev's tokenizer folder is a processor's; its words alone are read, from `tokenizer.json` as it stands.
_TEXT: Mapping[str, Mapping[str, Any]] = {
    "qwen3": {"tokenizer": Qwen2TokenizerFast, "text_encoder": Qwen3ForCausalLM},
    "mistral3": {"tokenizer": PreTrainedTokenizerFast, "text_encoder": Mistral3ForConditionalGeneration},
}


class Flux2(loading.Assembled):
    """See `marsam.diffusion.spec.Family`. Text conditioning is `hidden` (B, L, 3·W): the states of three layers side by
    side, with those of the padding, which the base was trained to see."""

    facts = FACTS

    def classes(self, source: Path) -> loading.Classes:
        kind = str(read_json(source / "text_encoder" / "config.json").get("model_type"))
        return loading.Classes(
            denoiser=Flux2Transformer2DModel, text=_TEXT.get(kind, {}), image_coder=AutoencoderKLFlux2
        )

    def encode_text(self, parts: Components, captions: Sequence[str]) -> Conditioning:
        tokenizer, encoder = (loading.text_part(parts, name) for name in ("tokenizer", "text_encoder"))
        reader = READERS[encoder.config.model_type]
        tokens = tokenizer(
            [reader.prompt(plain(caption)) for caption in captions],
            add_special_tokens=False,
            padding="max_length",
            max_length=parts.facts.text_length,
            truncation=True,
            return_tensors="pt",
        )
        said = encoder(
            input_ids=tokens.input_ids.to(parts.device),
            attention_mask=tokens.attention_mask.to(parts.device),
            output_hidden_states=True,
            use_cache=False,
            logits_to_keep=1,
            return_dict=True,
        )
        return Conditioning({"hidden": torch.cat([said.hidden_states[layer] for layer in reader.layers], dim=-1)})

    @torch.no_grad()
    def encode_image(self, parts: Components, pixels: torch.Tensor) -> torch.Tensor:
        coder = loading.image_coder(parts)
        cells = coder.encode(pixels.to(parts.device, coder.dtype)).latent_dist.mode().float()
        mean, spread = _statistics(coder)
        return (pixel_unshuffle(cells, _side(coder)) - mean) / spread

    def decode(self, parts: Components, latents: torch.Tensor) -> torch.Tensor:
        coder = loading.image_coder(parts)
        mean, spread = _statistics(coder)
        cells = pixel_shuffle(latents.to(parts.device, torch.float32) * spread + mean, _side(coder))
        return loading.in_range(coder.decode(cells.to(coder.dtype), return_dict=False)[0])

    def predict(
        self, denoiser: Any, noisy: torch.Tensor, t: torch.Tensor, cond: Conditioning, *, train_steps: int
    ) -> torch.Tensor:
        device, dtype = noisy.device, denoiser.x_embedder.weight.dtype
        height, width = noisy.shape[2:]
        hidden = cond.tensors["hidden"].to(device, dtype)
        guidance = None
        if denoiser.config.guidance_embeds:
            guidance = cond.tensors.get("guidance", torch.full((len(noisy),), TRAINED_GUIDANCE)).to(device)
        said = denoiser(
            hidden_states=loading.to_tokens(noisy, 1).to(dtype),
            timestep=t.to(device, torch.float32),
            guidance=guidance,
            encoder_hidden_states=hidden,
            # Axes: picture, row, column, word. Tokens of the caption differ in the last alone.
            txt_ids=_places(1, 1, hidden.shape[1], device),
            img_ids=_places(height, width, 1, device),
            return_dict=False,
        )[0]
        return loading.from_tokens(said, (height, width), 1).to(noisy.dtype)


def _places(rows: int, columns: int, words: int, device: torch.device) -> torch.Tensor:
    """(rows · columns · words, 4)."""
    return torch.cartesian_prod(*(torch.arange(count, device=device) for count in (1, rows, columns, words)))


def _statistics(coder: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and spread of a latent's channels, (C, 1, 1) each, as the image coder's batch norm has them."""
    spread = torch.sqrt(coder.bn.running_var.float() + coder.config.batch_norm_eps)
    return coder.bn.running_mean.float().view(-1, 1, 1), spread.view(-1, 1, 1)


def _side(coder: Any) -> int:
    """Cells of the image coder along a side of a latent's cell."""
    return int(coder.config.patch_size[0])


FAMILY = Flux2()
