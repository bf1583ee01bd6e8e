"""Qwen-Image in torch: load from a diffusers folder, encode, predict, decode."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from marsam.diffusion.families.qwen_image.facts import FACTS, PATCH
from marsam.diffusion.parts import net as loading
from marsam.diffusion.precision import Precision, Quantisation
from marsam.diffusion.spec import ALL_PARTS, Components, Conditioning, Part
from marsam.diffusion.text import plain

BEFORE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the objects and background:<|im_end|>\n<|im_start|>user\n"
)
AFTER = "<|im_end|>\n<|im_start|>assistant\n"
"""The template that the network was trained with, around the prompt. The tokens of `BEFORE` are dropped after the
encoder has read them; the maker's pipeline says 34, which is what they are in the vocabulary of Qwen2.5. They are
counted here: in another vocabulary 34 would cut into the prompt, and no one would notice."""


class QwenImage(loading.Assembled):
    """See `marsam.diffusion.spec.Family`. Text conditioning is the language model's last state, `hidden` (B, L, W), and
    its `mask`."""

    facts = FACTS

    def classes(self, source: Path) -> loading.Classes:
        return loading.Classes(
            denoiser=QwenImageTransformer2DModel,
            text={"tokenizer": Qwen2Tokenizer, "text_encoder": Qwen2_5_VLForConditionalGeneration},
            image_coder=AutoencoderKLQwenImage,
        )

    def load(
        self,
        source: Path,
        *,
        parts: frozenset[Part] = ALL_PARTS,
        precision: Precision = Precision.FP32,
        device: str = "cpu",
        quantisation: Quantisation | None = None,
    ) -> Components:
        loaded = super().load(source, parts=parts, precision=precision, device=device, quantisation=quantisation)
        if loaded.denoiser is not None:
            _lay_out_positions(loaded.denoiser)
        return loaded

    def encode_text(self, parts: Components, captions: Sequence[str]) -> Conditioning:
        tokenizer, encoder = (loading.text_part(parts, name) for name in ("tokenizer", "text_encoder"))
        start = len(tokenizer(BEFORE).input_ids)
        tokens = loading.tokens(
            tokenizer,
            [f"{BEFORE}{plain(caption)}{AFTER}" for caption in captions],
            start + parts.facts.text_length,
        ).to(parts.device)
        # Without the head: its logits would be the largest tensor of all.
        states = encoder.model(**tokens, use_cache=False).last_hidden_state
        return loading.masked(states[:, start:], tokens["attention_mask"][:, start:])

    @torch.no_grad()
    def encode_image(self, parts: Components, pixels: torch.Tensor) -> torch.Tensor:
        coder = loading.image_coder(parts)
        # The coder is one of films, and a picture is a film of one frame. Its `encode` and `decode` leave the frame
        # before on the module, for the next: pictures have none, and are decoded side by side.
        film = pixels.to(parts.device, coder.dtype).unsqueeze(2)
        mean, spread = _statistics(coder)
        posterior_mean, _ = coder.quant_conv(coder.encoder(film)).float().squeeze(2).chunk(2, dim=1)
        return (posterior_mean - mean) / spread

    def decode(self, parts: Components, latents: torch.Tensor) -> torch.Tensor:
        coder = loading.image_coder(parts)
        mean, spread = _statistics(coder)
        film = (latents.to(parts.device, torch.float32) * spread + mean).to(coder.dtype).unsqueeze(2)
        return loading.in_range(coder.decoder(coder.post_quant_conv(film)).squeeze(2))

    def predict(
        self, denoiser: Any, noisy: torch.Tensor, t: torch.Tensor, cond: Conditioning, *, train_steps: int
    ) -> torch.Tensor:
        dtype = denoiser.img_in.weight.dtype
        count, _, height, width = noisy.shape
        # float64 until the base's own step, which then comes back exactly.
        step = (t.to(noisy.device, torch.float64) * train_steps).to(torch.float32)
        mask = cond.tensors.get("mask")
        said = denoiser(
            hidden_states=loading.packed(noisy.to(dtype), PATCH),
            encoder_hidden_states=cond.tensors["hidden"].to(noisy.device, dtype),
            encoder_hidden_states_mask=None if mask is None else mask.to(noisy.device),
            timestep=step / train_steps,
            img_shapes=[[(1, height // PATCH, width // PATCH)]] * count,
            return_dict=False,
        )[0]
        return loading.unpacked(said, PATCH, height, width).to(noisy.dtype)


def _statistics(coder: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and spread (1, C, 1, 1) of the coder's latents, channel by channel."""
    config = coder.config
    mean, spread = (
        torch.tensor(values, dtype=torch.float32, device=coder.device).view(1, -1, 1, 1)
        for values in (config.latents_mean, config.latents_std)
    )
    return mean, spread


def _lay_out_positions(denoiser: Any) -> None:
    """Make the tables of positions anew: they are no weights, so the network that was built without memory, to have its
    weights streamed in, was left without them."""
    empty = denoiser.pos_embed
    denoiser.pos_embed = type(empty)(theta=empty.theta, axes_dim=empty.axes_dim, scale_rope=empty.scale_rope)


FAMILY = QwenImage()
