"""AdamW (arXiv 1711.05101) in the forms that a run can choose, and their state as named tensors.

`adamw` is fused where the device has a fused kernel, `adamw_unfused` never; `adamw_8bit` holds its two moments in 8
bits, blocks of 256 (arXiv 2110.02861), tensors below `LEAST_8BIT` in 32; `adamw_8bit_paged` lets a GPU's driver move
them to the host when memory is short (on a CPU it is `adamw_8bit`).
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import bitsandbytes as bnb
import torch

from marsam.catalog.runs import Optimiser
from marsam.core.errors import Invalid

BETAS = (0.9, 0.999)
EPS = 1e-8
WEIGHT_DECAY = 1e-2
BLOCK = 256
LEAST_8BIT = 4096
"""Tensors with fewer numbers keep their moments in 32 bits."""

_SHARED = ("qmap1", "qmap2")
"""Code books: the same for every tensor, and made anew."""


def make(kind: Optimiser, parameters: Sequence[torch.nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """The optimiser `kind` over fp32 parameters."""
    numbers: dict[str, Any] = {"lr": rate, "betas": BETAS, "eps": EPS, "weight_decay": WEIGHT_DECAY}
    match kind:
        case "adamw":
            fused = all(value.device.type in ("cpu", "cuda") for value in parameters)
            return torch.optim.AdamW(parameters, fused=fused, **numbers)
        case "adamw_unfused":
            return torch.optim.AdamW(parameters, fused=False, **numbers)
        case "adamw_8bit":
            return _eight_bits(bnb.optim.AdamW8bit, parameters, numbers)
        case "adamw_8bit_paged":
            return _eight_bits(bnb.optim.PagedAdamW8bit, parameters, numbers)


def _eight_bits(cls: Any, parameters: Sequence[torch.nn.Parameter], numbers: dict[str, Any]) -> torch.optim.Optimizer:
    found: torch.optim.Optimizer = cls(parameters, min_8bit_size=LEAST_8BIT, **numbers)
    return found


def laid_out(gradient: torch.Tensor, like: torch.nn.Parameter) -> torch.Tensor:
    """`gradient` with its numbers in memory as the parameter's are. torch's fused kernel takes them as they lie, and
    the gradient of a convolution may lie otherwise: it would move other numbers than it was taken for."""
    return gradient if gradient.stride() == like.stride() else torch.empty_like(like).copy_(gradient)


def take_step(optimiser: torch.optim.Optimizer) -> None:
    """One step with the gradients that are there."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
        optimiser.step()


def state(optimiser: torch.optim.Optimizer, trained: Mapping[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    """What the next step depends on, by `optimiser/<what>/<parameter>`."""
    return {
        f"optimiser/{key}/{name}": part.detach() if isinstance(part, torch.Tensor) else torch.tensor(part)
        for name, value in trained.items()
        for key, part in optimiser.state.get(value, {}).items()
        if key not in _SHARED
    }


def restore(
    optimiser: torch.optim.Optimizer,
    trained: Mapping[str, torch.nn.Parameter],
    tensors: Mapping[str, torch.Tensor],
) -> None:
    """Continue from `state`. Parameters of which it holds nothing never took a step.

    Raises `Invalid` (CHECKPOINT_MISMATCH) when it is of another optimiser.
    """
    kept: dict[str, dict[str, torch.Tensor]] = {}
    for path, part in tensors.items():
        kind, _, rest = path.partition("/")
        if kind == "optimiser":
            key, _, name = rest.partition("/")
            kept.setdefault(name, {})[key] = part
    for place, (name, value) in enumerate(trained.items()):
        if name in kept:
            empty = _empty_state(optimiser, value, place)
            if set(empty) - {*_SHARED} != set(kept[name]):
                raise Invalid(
                    f"the checkpoint's optimiser keeps {sorted(kept[name])} for {name}, not {sorted(empty)}",
                    reason="CHECKPOINT_MISMATCH",
                )
            for key, part in kept[name].items():
                empty[key] = int(part) if isinstance(empty[key], int) else _filled(empty[key], part, key)


def _empty_state(optimiser: torch.optim.Optimizer, value: torch.nn.Parameter, place: int) -> dict[str, Any]:
    group = optimiser.param_groups[0]
    if isinstance(optimiser, torch.optim.AdamW):
        # The fused kernel keeps its counter beside the parameters, the plain one on the CPU.
        device = value.device if group["fused"] else torch.device("cpu")
        optimiser.state[value] = {
            "step": torch.zeros((), dtype=torch.float32, device=device),
            "exp_avg": torch.zeros_like(value),
            "exp_avg_sq": torch.zeros_like(value),
        }
    else:
        optimiser.init_state(group, value, 0, place)  # type: ignore[attr-defined]  # bitsandbytes' own
    found: dict[str, Any] = optimiser.state[value]
    return found


def _filled(empty: torch.Tensor, part: torch.Tensor, key: str) -> torch.Tensor:
    if empty.shape != part.shape or empty.dtype != part.dtype:
        raise Invalid(
            f"the checkpoint's {key} is {tuple(part.shape)} of {part.dtype}, not {tuple(empty.shape)} of {empty.dtype}",
            reason="CHECKPOINT_MISMATCH",
        )
    return empty.copy_(part)


def without_gradient(optimiser: torch.optim.Optimizer, trained: Mapping[str, torch.nn.Parameter]) -> set[str]:
    """The parameters of which every gradient so far was zero: their second moments are."""
    found = set()
    for name, value in trained.items():
        kept = optimiser.state.get(value, {})
        # In 8 bits a block of zeros has the scale zero.
        moment = kept.get("exp_avg_sq", kept.get("absmax2", kept.get("state2")))
        if moment is None or not bool(moment.any()):
            found.add(name)
    return found


def state_bytes(kind: Optimiser, sizes: Iterable[int]) -> int:
    """Exact bytes of the moments of tensors with so many numbers each."""
    if kind in ("adamw", "adamw_unfused"):
        return sum(8 * size for size in sizes)
    return sum(8 * size if size < LEAST_8BIT else 2 * (size + -(-size // BLOCK) * 4) for size in sizes)
