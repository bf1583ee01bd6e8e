"""Modules without memory: how many bytes their weights will take, and what stands for a tokenizer beside them."""

from collections.abc import Iterable
from math import prod
from typing import Any

import torch
from transformers import BatchEncoding

from marsam.catalog.runs import RunSpec
from marsam.diffusion.precision import Precision, Quantisation
from marsam.diffusion.spec import BaseFacts, FamilyFacts, kept
from marsam.diffusion.weights.net import DTYPES
from marsam_trainer.run.stages import Amount


def linear_sizes(denoiser: Any, facts: FamilyFacts) -> list[int]:
    """Sizes of the weights that would be held in 4 bits."""
    return [
        layer.weight.numel()
        for name, layer in denoiser.named_modules()
        if type(layer) is torch.nn.Linear and not kept(name, facts.keep)
    ]


def nf4_bytes(size: int, quantisation: Quantisation) -> int:
    """Exact bytes of `size` weights in NF4: half a byte each, a scale per block of 64, and the code book of 16 floats.

    With double quantisation a scale is one byte, and 256 of them share an fp32 scale; plus their code book and offset.
    """
    blocks = -(-size // 64)
    packed = -(-size // 2) + 16 * 4
    return packed + (blocks + -(-blocks // 256) * 4 + 256 * 4 + 4 if quantisation.double else blocks * 4)


def still_bytes(tensors: Iterable[torch.Tensor], width: int) -> int:
    """Bytes of weights once loaded: numbers with a fraction in `width` bytes each, others as they are."""
    return sum(
        value.numel() * (width if value.is_floating_point() and value.dtype.itemsize <= 4 else value.dtype.itemsize)
        for value in tensors
    )


def cast(part: Any, dtype: torch.dtype) -> Any:
    """The same module in another precision. Torch's own `to`, because diffusers' warns of what does not matter here."""
    return torch.nn.Module.to(part, dtype)


def tensors_of(part: Any) -> list[torch.Tensor]:
    return [*part.parameters(), *part.buffers()]


def encoded_bytes(facts: BaseFacts, spec: RunSpec, amount: Amount) -> int:
    """Latents, and what captions were encoded to, the empty one too, at full length."""
    latent = 4 * prod(facts.latent_shape(spec.resolution, spec.resolution))
    width = DTYPES[Precision(spec.precision)].itemsize
    caption = width * sum(prod(shape) for shape in facts.conditioning.values())
    return amount.pictures * latent + (amount.captions + 1) * caption


class Words:
    """Stands for a tokenizer: every text is as long as is allowed, on the meta device."""

    def __init__(self, length: int) -> None:
        self.model_max_length = length

    def __call__(self, texts: Any, *, max_length: int = 0, **_: Any) -> Any:
        if isinstance(texts, str):
            return BatchEncoding({"input_ids": [0] * len(texts.split())})
        ids = torch.zeros((len(texts), max_length or self.model_max_length), dtype=torch.long, device="meta")
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
