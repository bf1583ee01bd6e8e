"""Linear layers held in 8 bits, an absmax for every output, on any device.

Weights alone are quantised: activations are not. bitsandbytes' 8-bit layer (arXiv 2208.07339) picks columns with
outliers over the whole batch, so a row would depend on its neighbours; here it cannot.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from marsam.diffusion.spec import kept
from marsam.diffusion.weights.net import Place

LARGEST = 127


class Int8Linear(nn.Linear):
    """y = x (q · s)ᵀ + b with `weight` q (out, in) of whole numbers in ±127 and `scale` s (out, 1) in fp32."""

    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        """A layer like `linear`, on torch's meta device; its weight comes with `fill`."""
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.register_buffer("scale", torch.empty(linear.out_features, 1, device="meta"), persistent=False)

    def fill(self, weight: Tensor) -> None:
        """Quantise `weight` (out, in) and hold it."""
        weight = weight.float()
        largest = weight.abs().amax(dim=1, keepdim=True)
        scale = torch.where(largest > 0, largest / LARGEST, torch.ones_like(largest))
        numbers = (weight / scale).round().clamp(-LARGEST, LARGEST).to(torch.int8)
        self._parameters["weight"] = nn.Parameter(numbers, requires_grad=False)
        self.scale = scale

    def whole(self) -> Tensor:
        """The weight that it computes with, fp32."""
        return self.weight * self.scale

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out), in the type of `x`."""
        return functional.linear(x, self.whole().to(x.dtype), self.bias)


def replace(module: Any, *, keep: Sequence[str]) -> list[str]:
    """Put an `Int8Linear` in the place of every `nn.Linear` that is not among `keep`; return the names replaced.

    `module` must be on the meta device: weights that are already loaded would be lost.
    """
    names = [name for name, layer in module.named_modules() if type(layer) is nn.Linear and not kept(name, keep)]
    for name in names:
        path, _, leaf = name.rpartition(".")
        owner = module.get_submodule(path)
        setattr(owner, leaf, Int8Linear(getattr(owner, leaf)))
    return names


def placer(*, device: str) -> Place:
    """The `place` of `weights.net.stream`: quantises the weight of an `Int8Linear` on its way in."""
    return partial(_place, device)


def _place(device: str, owner: Any, leaf: str, tensor: Tensor) -> bool:
    if leaf != "weight" or not isinstance(owner, Int8Linear):
        return False
    owner.fill(tensor.to(device))
    return True
