"""One layer that adapters change, and what each of them does to it."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from marsam.core.errors import Invalid
from marsam_generator.engine.mix import Batch, Mix


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """What an adapter does to one layer: `down` (r, in, …) and `up` (r, out), α/r in it. Of a DoRA adapter m/‖V‖ is in
    `up` too, and `stretch` is m/‖V‖ - 1 by output, (out,) for a Linear layer and (out, 1, 1) for a convolution."""

    down: Tensor
    up: Tensor
    stretch: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them."""
        return (self.down, self.up) if self.stretch is None else (self.down, self.up, self.stretch)


class Site:
    """A target layer and the hook that adds to its output. `mixes.current` is the mix of the forward that the same
    thread runs, or None."""

    def __init__(self, name: str, module: nn.Module, mixes: threading.local) -> None:
        self.name = name
        self._module = module
        self._mixes = mixes
        self._shares: dict[str, Share] = {}
        self._ranks: dict[str, int] = {}
        self._is_conv = isinstance(module, nn.Conv2d)
        self._handle = module.register_forward_hook(self._add)

    @property
    def idle(self) -> bool:
        """Whether no adapter changes the layer."""
        return not self._shares

    def put(self, key: str, share: Share) -> None:
        """Take an adapter's share in."""
        self._shares[key] = share
        self._ranks[key] = share.down.shape[0]

    def drop(self, key: str) -> None:
        """Let an adapter's share go."""
        del self._shares[key], self._ranks[key]

    def release(self) -> None:
        """Take the hook off; the module is as it was before."""
        self._handle.remove()

    def _add(self, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        mix: Mix | None = getattr(self._mixes, "current", None)
        if mix is None:
            return None
        rows = inputs[0]
        if rows.shape[0] != mix.rows:
            raise crowded(self.name)
        for batch in mix.batches(self._ranks, convolution=self._is_conv):
            shares = [self._shares[ask.key] for ask in batch.asks]
            for ask, share in zip(batch.asks, shares, strict=True):
                if share.stretch is not None:
                    self._stretch(output[ask.rows], share.stretch, ask.weight)
            product = self._convolved if self._is_conv else self._multiplied
            product(rows[batch.rows].to(shares[0].down.dtype), output[batch.rows], shares, batch)
        return output

    def _stretch(self, output: Tensor, stretch: Tensor, weight: float) -> None:
        """Add weight · stretch · (output without the bias), in the stretch's fp32."""
        bare = output.to(stretch.dtype)
        if self._module.bias is not None:
            bare = bare - self._module.bias.to(stretch.dtype).view(stretch.shape)
        output.add_((bare * (stretch * weight)).to(output.dtype))

    @staticmethod
    def _multiplied(rows: Tensor, output: Tensor, shares: Sequence[Share], batch: Batch) -> None:
        """Linear: a product for each ask, all in one call."""
        if len(shares) == 1:
            hidden = rows.reshape(-1, rows.shape[-1]) @ shares[0].down.t()
            _add(output, hidden, shares[0].up, batch.asks[0].weight)
            return
        downs = torch.stack([share.down for share in shares])
        hidden = rows.reshape(len(shares), -1, rows.shape[-1]) @ downs.transpose(1, 2)
        _add(output, hidden.mul_(batch.weights), torch.stack([share.up for share in shares]), 1.0)

    def _convolved(self, rows: Tensor, output: Tensor, shares: Sequence[Share], batch: Batch) -> None:
        """Conv2d: of several asks every row is a group of one convolution, which is faster than as many of their
        own."""
        conv = self._module
        if len(shares) == 1:
            share = shares[0]
            hidden = functional.conv2d(rows, share.down, None, conv.stride, conv.padding, conv.dilation).flatten(2)
            _add(output, share.up.t().expand(len(rows), -1, -1), hidden, batch.asks[0].weight)
            return
        each = [share for share, ask in zip(shares, batch.asks, strict=True) for _ in range(ask.count)]
        groups = rows.reshape(1, -1, *rows.shape[2:])
        downs = torch.cat([share.down for share in each])
        hidden = functional.conv2d(groups, downs, None, conv.stride, conv.padding, conv.dilation, len(each))
        hidden = hidden.view(len(each), each[0].down.shape[0], -1).mul_(batch.weights)
        _add(output, torch.stack([share.up for share in each]).transpose(1, 2), hidden, 1.0)


def crowded(layer: str) -> Invalid:
    """What is said of an adapter on a layer where pictures have no rows of their own."""
    return Invalid(
        f"layer {layer} sees the tokens of all pictures in one row: none can have an adapter there",
        reason="ADAPTER_LAYER_UNSUPPORTED",
        field="adapters",
        remedy="draw without the adapter, or train it without that layer",
    )


def _add(output: Tensor, left: Tensor, right: Tensor, weight: float) -> None:
    """Add weight · left @ right to `output` in place, matrix by matrix. Its strides stay: what follows computes in
    them, and other bits come out where it has others."""
    if output.dtype != left.dtype or not output.is_contiguous():
        output.add_((left @ right).mul_(weight).to(output.dtype).view(output.shape))
        return
    flat = output.view(*left.shape[:-1], right.shape[-1])
    add = flat.addmm_ if flat.dim() == 2 else flat.baddbmm_
    add(left, right, alpha=weight)
