"""Linear layers held in NF4, on the CPU as on a GPU: our own loader, because diffusers' refuses 4 bits without an
accelerator.

A layer is replaced while the module is still on the meta device, and its weight is quantised when it arrives from the
file. The arithmetic is bitsandbytes' (arXiv 2305.14314: 4-bit NormalFloat in blocks of 64, absmax quantised again in
blocks of 256).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import bitsandbytes as bnb
import torch
from bitsandbytes.functional import quantize_4bit, quantize_blockwise
from torch import nn

from marsam.diffusion.precision import Precision, Quantisation
from marsam.diffusion.spec import kept
from marsam.diffusion.weights.net import DTYPES, Place

BLOCK, DOUBLE_BLOCK = 64, 256
"""Numbers that share an absmax, and absmaxes that share one of their own."""

_PIECE = 1 << 20
"""Numbers that are quantised at once: a multiple of `BLOCK`."""


def replace(module: Any, *, keep: Sequence[str], quantisation: Quantisation, precision: Precision) -> list[str]:
    """Put a Linear4bit in the place of every `nn.Linear` that is not among `keep`; return the names replaced.

    `module` must be on the meta device: weights that are already loaded would be lost.
    """
    names = [name for name, layer in module.named_modules() if type(layer) is nn.Linear and not kept(name, keep)]
    for name in names:
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        linear = getattr(owner, leaf)
        layer = bnb.nn.Linear4bit(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            compute_dtype=DTYPES[precision],
            compress_statistics=quantisation.double,
            quant_type=quantisation.kind,
            device="meta",
        )
        # On CPUs with AVX512-BF16 the first forward in eval mode repacks the weight for inference; from then on
        # training silently loses the gradient through the layer (or dies, where it has a bias). Training and previews
        # alternate here, so never.
        layer.support_avx512bf16_for_cpu = False
        setattr(owner, leaf, layer)
    return names


def placer(*, device: str) -> Place:
    """The `place` of `weights.net.stream`: quantises the weight of a Linear4bit on its way in, leaves all else to the
    caller."""
    return partial(_place, device)


def _place(device: str, owner: Any, leaf: str, tensor: torch.Tensor) -> bool:
    if leaf != "weight" or not isinstance(owner, bnb.nn.Linear4bit):
        return False
    empty = owner.weight
    packed, state = _quantised(
        tensor, device, kind=empty.quant_type, double=empty.compress_statistics, storage=empty.quant_storage
    )
    owner._parameters["weight"] = bnb.nn.Params4bit(
        data=packed,
        requires_grad=False,
        quant_state=state,
        blocksize=BLOCK,
        compress_statistics=empty.compress_statistics,
        quant_type=empty.quant_type,
        quant_storage=empty.quant_storage,
        module=owner,
        bnb_quantized=True,
    )
    # What the layer itself is asked for (bitsandbytes keeps the state in both places).
    owner.quant_state = state
    return True


def _quantised(
    weight: torch.Tensor, device: str, *, kind: str, double: bool, storage: torch.dtype
) -> tuple[torch.Tensor, Any]:
    """A weight's packed numbers and their quantisation state, bit for bit those of `quantize_4bit` for the whole.

    Piece by piece: on a CPU that takes sixteen bytes for every number it is given, four times the fp32 weight.
    """
    pieces = [
        quantize_4bit(piece.to(device), blocksize=BLOCK, quant_type=kind, quant_storage=storage)
        for piece in weight.reshape(-1).split(_PIECE)
    ]
    packed = torch.cat([numbers for numbers, _ in pieces])
    state = pieces[0][1]
    state.shape, state.absmax = weight.shape, torch.cat([one.absmax for _, one in pieces])
    if double:
        state.offset = state.absmax.mean()
        state.absmax, state.state2 = quantize_blockwise(state.absmax - state.offset, blocksize=DOUBLE_BLOCK)
        state.nested = True
    return packed, state


def quantised_share(module: Any) -> float:
    """The share of all parameters that is held in 4 bits, between 0 and 1. Convolutions never are: say so to the
    user."""
    quantised = total = 0
    for value in module.parameters():
        state = getattr(value, "quant_state", None)
        count = state.shape.numel() if state is not None else value.numel()
        total += count
        quantised += count if state is not None else 0
    return quantised / total if total else 0.0
