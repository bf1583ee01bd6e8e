"""DoRA (arXiv 2402.09353): the length m of every output's weights is learnt apart from their direction.

With V = W + (α/r) · B·A and ‖V‖ by output, W' = W + weight · (m / ‖V‖ · V - W); m = ‖W‖ at the start. ‖V‖ takes no
gradient (its section 4.3). The arithmetic is PEFT's, the precision of lengths and the weight are ours.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer


def measure(layer: Any, name: str) -> None:
    """Take the lengths of a layer that bears the fresh adapter `name` again, and from now on always, in fp32: PEFT
    takes them in the base's precision, whose rounding would change the output."""
    lengths = layer.lora_magnitude_vector[name]
    lengths.get_weight_norm = partial(_exact, lengths.get_weight_norm)
    lengths.update_layer(
        base_layer=layer.get_base_layer(),
        lora_A=layer.lora_A[name].weight,
        lora_B=layer.lora_B[name].weight,
        scaling=layer.scaling[name],
    )
    lengths.adapter_weight = 1.0
    lengths.register_forward_hook(_weighted)


def set_weight(layer: Any, weight: float, name: str) -> None:
    """How far the layer goes from the base's to the tuned one: 1 all the way, 0 not at all, to the bit."""
    layer.lora_magnitude_vector[name].adapter_weight = weight


def widest(modules: Iterable[Any]) -> int:
    """The most inputs of a Linear layer whose lengths an adapter learns, 0 where none does: to measure one, PEFT makes
    a square of them."""
    layers = (layer for module in modules for layer in module.modules() if isinstance(layer, LoraLayer))
    measured = (layer.get_base_layer() for layer in layers if layer.lora_magnitude_vector)
    return max((base.in_features for base in measured if isinstance(base, torch.nn.Linear)), default=0)


def _exact(norm: Any, weight: torch.Tensor, lora_weight: torch.Tensor, scaling: float, **more: Any) -> torch.Tensor:
    """PEFT's ‖V‖, in fp32."""
    found: torch.Tensor = norm(weight.float(), lora_weight.float(), scaling, **more)
    return found


def _weighted(lengths: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    """What is added to the base's output, at the adapter's weight."""
    return output if lengths.adapter_weight == 1.0 else output * lengths.adapter_weight
