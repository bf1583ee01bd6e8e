"""The ways to hold a frozen denoiser's Linear weights, by `Quantisation.kind`."""

from collections.abc import Sequence
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit

from marsam.diffusion.int8 import net as int8
from marsam.diffusion.nf4 import net as nf4
from marsam.diffusion.precision import Precision, Quantisation
from marsam.diffusion.weights.net import Place


def prepare(
    module: Any, *, keep: Sequence[str], quantisation: Quantisation, precision: Precision, device: str
) -> Place:
    """Make ready a module on torch's meta device to hold its Linear weights as `quantisation` says, but for those of
    `keep`; the result is the `place` of `weights.net.stream` that fills it."""
    if quantisation.kind == "int8":
        int8.replace(module, keep=keep)
        return int8.placer(device=device)
    nf4.replace(module, keep=keep, quantisation=quantisation, precision=precision)
    return nf4.placer(device=device)


def whole(layer: Any) -> torch.Tensor:
    """The weight that a Linear or Conv2d layer computes with, in fp32, however it is held."""
    if isinstance(layer, int8.Int8Linear):
        return layer.whole()
    state = getattr(layer.weight, "quant_state", None)
    if state is not None:
        weight: torch.Tensor = dequantize_4bit(layer.weight.data, state).float()
        return weight.view(layer.out_features, layer.in_features)
    held: torch.Tensor = layer.weight.detach()
    return held.float()
