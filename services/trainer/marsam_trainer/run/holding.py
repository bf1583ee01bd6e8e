"""How a rank holds the model: whole, or its part of it.

Whole: every rank has all weights, takes the gradient of its own rows, and the gradients are added up once a step (data
parallelism). Shards: every weight is cut among the ranks and put together, block by block, for as long as a block
computes (FSDP2, arXiv 2304.11277); the optimiser and the moving average know a rank's own part only, as plain tensors,
so every optimiser works on it.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.utils import clip_grad_norm_, get_total_norm

from marsam.diffusion.precision import Precision
from marsam_trainer.run.ranks import World


class Holding(Protocol):
    """What the loop must know of it."""

    world: World
    sharded: bool

    @property
    def trained(self) -> Mapping[str, nn.Parameter]:
        """What this rank's optimiser moves, by name."""

    def gradients(self, loss: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The gradient of `loss` for each of `trained`."""

    def join(self) -> None:
        """Make the gradients on `trained` those of all ranks' rows."""

    def clip(self, norm: float) -> float:
        """Scale all gradients so that their norm is at most `norm`; return what it was."""


class Whole:
    """Every rank has all of it."""

    sharded = False

    def __init__(self, world: World, trained: Mapping[str, nn.Parameter]) -> None:
        self.world = world
        self.trained = dict(trained)

    def gradients(self, loss: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(loss, tuple(self.trained.values()))

    def join(self) -> None:
        self.world.add([value.grad for value in self.trained.values() if value.grad is not None])

    def clip(self, norm: float) -> float:
        return float(clip_grad_norm_(self.trained.values(), norm))


class Shards:
    """Every rank has a part of the denoiser; text encoders that train beside it are whole. `named` are all of the
    denoiser's weights as they are held, `cut` those that train, by name."""

    sharded = True

    def __init__(
        self, world: World, denoiser: Any, trained: Mapping[str, nn.Parameter], *, device: str, precision: Precision
    ) -> None:
        """Cut the denoiser up in place; its parts move to `device`. Its parameters in `trained` are replaced: forget
        them."""
        _cut(denoiser, world, device=device, precision=precision)
        self.world = world
        self.named: dict[str, Any] = dict(denoiser.named_parameters())
        self.cut = {name: self.named[name] for name in trained if name in self.named}
        self._own = {name: value for name, value in self.cut.items() if value.to_local().numel()}
        self._whole = {name: value for name, value in trained.items() if name not in self.named}
        own = {name: nn.Parameter(value.to_local().detach()) for name, value in self._own.items()}
        self.trained = {**own, **self._whole}

    def gradients(self, loss: torch.Tensor) -> tuple[torch.Tensor, ...]:
        loss.backward()  # type: ignore[no-untyped-call]
        found = [value.grad.to_local() for value in self._own.values()]
        for value in self.named.values():
            value.grad = None
        for value in self._whole.values():
            found.append(value.grad)
            value.grad = None
        return tuple(found)

    def join(self) -> None:
        """Parts were added up on the way back."""
        self.world.add([value.grad for value in self._whole.values() if value.grad is not None])

    def clip(self, norm: float) -> float:
        own = [_gradient(self.trained[name]) for name in self._own]
        whole = [_gradient(value) for value in self._whole.values()]
        parts = self.world.totals([float(get_total_norm(own)) ** 2])[0]
        total = math.sqrt(parts + (float(get_total_norm(whole)) ** 2 if whole else 0.0))
        factor = min(1.0, norm / (total + 1e-6))
        for gradient in own + whole:
            gradient.mul_(factor)
        return total

    @torch.no_grad()
    def whole(self, names: Collection[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights `names`, put together one by one, on the CPU. All ranks must take all of them."""
        for name, value in self.named.items():
            if name in names:
                yield name, value.full_tensor().cpu()


def _gradient(value: nn.Parameter) -> torch.Tensor:
    assert value.grad is not None  # the loop has just put it there
    return value.grad


def _cut(denoiser: Any, world: World, *, device: str, precision: Precision) -> None:
    mesh = init_device_mesh(device.partition(":")[0], (world.size,))
    policy = MixedPrecisionPolicy()
    if precision is Precision.BF16 and all(value.is_floating_point() for value in denoiser.parameters()):
        # Put together in the type that is computed in: half the traffic, and no second copy of all weights.
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in blocks(denoiser):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # The outermost too: what stayed together would go stale when weights change between two forwards.
    fully_shard(denoiser, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    for module in denoiser.modules():
        if isinstance(module, FSDPModule):
            # Rows are weighted by their share of the whole batch, so gradients are added, not averaged.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def blocks(module: nn.Module) -> list[nn.Module]:
    """The members of a network's outermost lists of layers, where they have weights."""
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            found += [block for block in child if any(True for _ in block.parameters())]
        else:
            found += blocks(child)
    return found
