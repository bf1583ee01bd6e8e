"""How others hold a model in 4 bits on a CPU: whole first, then its Linear layers exchanged one by one.

diffusers' own quantiser asks for an accelerator; this is what it does with one, by bitsandbytes' public classes.
"""

from collections.abc import Sequence
from typing import Any

import bitsandbytes as bnb
import torch
from torch import nn

from marsam.diffusion.spec import kept


def quantise(module: Any, *, keep: Sequence[str], compute: torch.dtype) -> Any:
    """Exchange every Linear that is not among `keep` for a Linear4bit (NF4, double quantisation), in place; each weight
    is let go as soon as it is quantised."""
    module.requires_grad_(False)
    linear = [name for name, layer in module.named_modules() if type(layer) is nn.Linear and not kept(name, keep)]
    for name in linear:
        owner, _, leaf = name.rpartition(".")
        layer = getattr(module.get_submodule(owner), leaf)
        quantised = bnb.nn.Linear4bit(
            layer.in_features,
            layer.out_features,
            bias=layer.bias is not None,
            compute_dtype=compute,
            quant_type="nf4",
            device="meta",
        )
        quantised.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", module=quantised)
        quantised.bias = layer.bias
        setattr(module.get_submodule(owner), leaf, quantised.to("cpu"))
    return module
