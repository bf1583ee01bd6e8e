"""Stable Diffusion 3 and 3.5 in torch: load from a diffusers folder, encode, predict, decode."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from marsam.diffusion import basefiles
from marsam.diffusion.families.sd3.facts import FACTS, T5, T5_LENGTH
from marsam.diffusion.parts import net as loading
from marsam.diffusion.spec import Components, Conditioning
from marsam.diffusion.text import plain


class StableDiffusion3(loading.Assembled):
    """See `marsam.diffusion.spec.Family`.

    Text conditioning is `hidden` (B, L, W) and `pooled` (B, P). `hidden` is first what both CLIP encoders say in their
    last hidden state but one, side by side and filled up with zeros to the width of T5, then what T5 says. `pooled` is
    both CLIP encoders' projection of the whole caption. Padding counts: its makers mask nothing.
    """

    facts = FACTS

    def classes(self, source: Path) -> loading.Classes:
        text: dict[str, Any] = {
            "tokenizer": CLIPTokenizer,
            "text_encoder": CLIPTextModelWithProjection,
            "tokenizer_2": CLIPTokenizer,
            "text_encoder_2": CLIPTextModelWithProjection,
        }
        if basefiles.present(basefiles.read_json(source / basefiles.INDEX), T5):
            text |= {"tokenizer_3": T5TokenizerFast, T5: T5EncoderModel}
        return loading.Classes(denoiser=SD3Transformer2DModel, text=text, image_coder=AutoencoderKL)

    def encode_text(self, parts: Components, captions: Sequence[str]) -> Conditioning:
        texts = [plain(caption) for caption in captions]
        length, width = parts.facts.conditioning["hidden"]
        said = [
            loading.text_part(parts, f"text_encoder{which}")(
                _tokens(parts, f"tokenizer{which}", texts, length - T5_LENGTH), output_hidden_states=True
            )
            for which in ("", "_2")
        ]
        short = torch.cat([one.hidden_states[-2] for one in said], dim=-1)
        short = torch.nn.functional.pad(short, (0, width - short.shape[-1]))
        if T5 in parts.text:
            long = parts.text[T5](_tokens(parts, "tokenizer_3", texts, T5_LENGTH)).last_hidden_state
        else:
            long = short.new_zeros((len(texts), T5_LENGTH, width))
        pooled = torch.cat([one.text_embeds for one in said], dim=-1)
        return Conditioning({"hidden": torch.cat([short, long], dim=1), "pooled": pooled})

    @torch.no_grad()
    def encode_image(self, parts: Components, pixels: torch.Tensor) -> torch.Tensor:
        return loading.scaled_mean(loading.image_coder(parts), pixels.to(parts.device))

    def decode(self, parts: Components, latents: torch.Tensor) -> torch.Tensor:
        return loading.unscaled_picture(loading.image_coder(parts), latents.to(parts.device))

    def predict(
        self, denoiser: Any, noisy: torch.Tensor, t: torch.Tensor, cond: Conditioning, *, train_steps: int
    ) -> torch.Tensor:
        # A convolution, so that it is never held in 4 bits.
        dtype = denoiser.pos_embed.proj.weight.dtype
        hidden, pooled = (cond.tensors[name].to(noisy.device, dtype) for name in ("hidden", "pooled"))
        # float64 until here, so that the scheduler's own number comes back exactly.
        time = (t.to(noisy.device, torch.float64) * train_steps).to(torch.float32)
        return denoiser(
            hidden_states=noisy.to(dtype),
            timestep=time,
            encoder_hidden_states=hidden,
            pooled_projections=pooled,
            return_dict=False,
        )[0].to(noisy.dtype)


def _tokens(parts: Components, name: str, texts: Sequence[str], length: int) -> torch.Tensor:
    """(B, length) token ids under the tokenizer `name`, cut off or filled up with its own padding."""
    tokenizer = loading.text_part(parts, name)
    filled = tokenizer(list(texts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return filled.input_ids.to(parts.device)


FAMILY = StableDiffusion3()
