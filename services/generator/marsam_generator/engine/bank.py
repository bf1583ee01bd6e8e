"""The adapter bank: every resident low-rank adapter, stacked, so that each row of a batch picks its own.

For a target layer with weight W the bank holds all A stacked along rank (R × in) and all B stacked along rank (R ×
out). A forward of n rows computes ``y = x Wᵀ + ((x Aᵀ) ∘ S) B`` where S (n × R) is zero outside the adapters that the
row asked for and holds the weight inside. Nothing is fused: the base's own parameters are never written, and a row
without an adapter is not even computed, so it equals the base bit for bit. Columns of other adapters are *masked*,
not multiplied by zero, because 0 × inf is NaN and would poison a stranger's row.

The stack is as high as the ranks of its adapters together, in every layer that any of them targets; a layer that one
does not target is padded with zeros for it. Its height is always just that: an eviction moves the others together, so
that what is budgeted is what is held.

Sources: Hu et al., LoRA (arXiv 2106.09685) for W + (α/r)·B·A; Chen et al., Punica (arXiv 2310.18547) for many
adapters in one batch.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from marsam.core.errors import Corrupt, Exhausted, Internal, Invalid, Missing
from marsam.diffusion.adapter.net import Adapter

MAX_ROWS_OF_RANK = 4096
"""The bank never grows beyond this total rank."""


@dataclass(frozen=True, kw_only=True)
class PreparedAdapter:
    """An adapter whose numbers and shapes were checked, ready to be written into the bank between two ticks. `text` is
    what belongs into the banks of text encoders, by folder."""

    key: str
    rank: int
    layers: Mapping[str, tuple[Tensor, Tensor]]
    text: Mapping[str, "PreparedAdapter"] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Bytes of its own tensors. What the bank holds for it is more where it is padded: see `AdapterBank`."""
        own = sum(down.nbytes + up.nbytes for down, up in self.layers.values())
        return own + sum(one.size_bytes for one in self.text.values())


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What the rows of the running forward asked for. `index` is None when every row has an adapter."""

    rows: int
    index: Tensor | None
    span: slice
    scale: Tensor
    outside: Tensor | None


class _Site:
    """One target layer with its stacked matrices and the hook that adds their product to the layer's output."""

    def __init__(self, name: str, module: nn.Module, capacity: int, plans: threading.local) -> None:
        self.name = name
        self._module = module
        self._plans = plans
        weight = module.weight
        self._is_conv = isinstance(module, nn.Conv2d)
        shape = tuple(weight.shape[1:]) if self._is_conv else (module.in_features,)
        out = module.out_channels if self._is_conv else module.out_features
        dtype = weight.dtype if weight.dtype.is_floating_point else torch.float32
        self.down = torch.zeros((capacity, *shape), device=weight.device, dtype=dtype)
        self.up = torch.zeros((capacity, int(out)), device=weight.device, dtype=dtype)
        self._handle = module.register_forward_hook(self._add)

    def write(self, slot: slice, down: Tensor | None, up: Tensor | None) -> None:
        """Put an adapter's matrices into its slot; ranks it does not use, and a layer it does not target, are zero."""
        self.down[slot] = 0
        self.up[slot] = 0
        if down is not None and up is not None:
            used = slice(slot.start, slot.start + down.shape[0])
            self.down[used] = down.to(self.down)
            self.up[used] = up.to(self.up)

    def grow(self, rank: int) -> None:
        """Make room for `rank` more, keeping what is there."""
        self.down = torch.cat([self.down, self.down.new_zeros((rank, *self.down.shape[1:]))])
        self.up = torch.cat([self.up, self.up.new_zeros((rank, self.up.shape[1]))])

    def cut(self, slot: slice) -> None:
        """Take a slot out; what came after it moves up."""
        self.down = torch.cat([self.down[: slot.start], self.down[slot.stop :]])
        self.up = torch.cat([self.up[: slot.start], self.up[slot.stop :]])

    def release(self) -> None:
        """Take the hook off; the module is as it was before the bank knew it."""
        self._handle.remove()

    def _add(self, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        plan: _Plan | None = getattr(self._plans, "current", None)
        if plan is None:
            return None
        rows = inputs[0]
        if rows.shape[0] != plan.rows:
            raise Internal(f"layer {self.name} saw {rows.shape[0]} rows in a batch of {plan.rows}")
        chosen = rows if plan.index is None else rows.index_select(0, plan.index)
        delta = self._convolve(chosen, plan) if self._is_conv else self._multiply(chosen, plan)
        delta = delta.to(output.dtype)
        if plan.index is None:
            return output.add_(delta)
        return output.index_add_(0, plan.index, delta)

    def _multiply(self, rows: Tensor, plan: _Plan) -> Tensor:
        hidden = functional.linear(rows.to(self.down.dtype), self.down[plan.span])
        spread = (hidden.shape[0],) + (1,) * (hidden.dim() - 2) + (hidden.shape[-1],)
        hidden = hidden * plan.scale.to(hidden.dtype).view(spread)
        if plan.outside is not None:
            hidden = hidden.masked_fill_(plan.outside.view(spread), 0)
        return hidden @ self.up[plan.span]

    def _convolve(self, rows: Tensor, plan: _Plan) -> Tensor:
        conv = self._module
        hidden = functional.conv2d(
            rows.to(self.down.dtype), self.down[plan.span], None, conv.stride, conv.padding, conv.dilation
        )
        spread = (hidden.shape[0], hidden.shape[1], 1, 1)
        hidden = hidden * plan.scale.to(hidden.dtype).view(spread)
        if plan.outside is not None:
            hidden = hidden.masked_fill_(plan.outside.view(spread), 0)
        return functional.conv2d(hidden, self.up[plan.span].t()[:, :, None, None])


class AdapterBank:
    """The adapters resident beside one denoiser. Changed only between ticks; read by any number of threads during
    one.

    `prepare` may run anywhere; `install` and `evict` must run while no forward of the model runs.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = {name: module for name, module in model.named_modules() if _is_target(module)}
        self._device = next(model.parameters()).device
        self._sites: dict[str, _Site] = {}
        self._slots: dict[str, slice] = {}
        self._layers: dict[str, frozenset[str]] = {}
        self._sizes: dict[str, int] = {}
        self._rank = 0
        self._held = 0
        self._plans = threading.local()

    @property
    def resident(self) -> Mapping[str, int]:
        """Adapter key → bytes of its tensors."""
        return dict(self._sizes)

    @property
    def size_bytes(self) -> int:
        """Bytes of all stacked matrices, padding included. May be read from any thread."""
        return self._held

    def prepare(self, key: str, adapter: Adapter) -> PreparedAdapter:
        """Check an adapter and fold α/r into B. Its share of text encoders is `Reader.prepare`'s.

        Raises `Invalid` for DoRA and for a layer that the model lacks or whose shape differs, `Corrupt` for a number
        that is not finite.
        """
        if adapter.shape.dora:
            raise Invalid(
                "a DoRA adapter scales the base's own weights, which others share", reason="ADAPTER_KIND", resource=key,
                remedy="train it without dora, or export it as diffusers or peft and draw it there",
            )  # fmt: skip
        if not adapter.pairs:
            raise Invalid("the adapter holds no layer", reason="ADAPTER_EMPTY", resource=key)
        prepared: dict[str, tuple[Tensor, Tensor]] = {}
        for name, (a, b) in adapter.pairs.items():
            self._check(key, name, a, b)
            down = a.detach()
            up = (b.detach().flatten(1).float() * adapter.shape.scale).t().contiguous()
            if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
                raise Corrupt(
                    f"layer {name} of the adapter holds numbers that are not finite", reason="ADAPTER_NOT_FINITE",
                    resource=key, remedy="train it again, or leave this checkpoint out",
                )  # fmt: skip
            prepared[name] = (down, up)
        return PreparedAdapter(key=key, rank=max(down.shape[0] for down, _ in prepared.values()), layers=prepared)

    def install(self, adapter: PreparedAdapter) -> None:
        """Stack a prepared adapter onto the others; the same key again is a no-op. Raises `Exhausted`."""
        if adapter.key in self._slots:
            return
        slot = self._room_for(adapter.rank)
        for name in adapter.layers:
            if name not in self._sites:
                self._sites[name] = _Site(name, self._modules[name], self._rank, self._plans)
        for name, site in self._sites.items():
            down, up = adapter.layers.get(name, (None, None))
            site.write(slot, down, up)
        self._slots[adapter.key] = slot
        self._layers[adapter.key] = frozenset(adapter.layers)
        self._sizes[adapter.key] = adapter.size_bytes
        self._weigh()

    def evict(self, key: str) -> None:
        """Forget an adapter and give its memory back. Raises `Missing` when it is not resident."""
        if key not in self._slots:
            raise Missing(f"adapter {key} is not resident", reason="ADAPTER_NOT_RESIDENT", resource=key)
        slot = self._slots.pop(key)
        del self._sizes[key], self._layers[key]
        rank = slot.stop - slot.start
        self._rank -= rank
        for other, place in self._slots.items():
            if place.start > slot.start:
                self._slots[other] = slice(place.start - rank, place.stop - rank)
        targeted = frozenset().union(*self._layers.values())
        for name in self._sites.keys() - targeted:
            self._sites.pop(name).release()
        for site in self._sites.values():
            site.cut(slot)
        self._weigh()

    def _weigh(self) -> None:
        self._held = sum(site.down.nbytes + site.up.nbytes for site in self._sites.values())

    @contextmanager
    def rows(self, uses: Sequence[Mapping[str, float]]) -> Iterator[None]:
        """Within this block, on this thread, row i of a forward applies ``uses[i]``: adapter key → weight."""
        self._plans.current = self._plan(uses)
        try:
            yield
        finally:
            self._plans.current = None

    def _plan(self, uses: Sequence[Mapping[str, float]]) -> _Plan | None:
        wanted = [[(self._slots[key], weight) for key, weight in use.items() if weight != 0] for use in uses]
        active = [row for row, parts in enumerate(wanted) if parts]
        if not active:
            return None
        slots = [slot for row in active for slot, _ in wanted[row]]
        span = slice(min(slot.start for slot in slots), max(slot.stop for slot in slots))
        scale = torch.zeros(len(active), span.stop - span.start)
        inside = torch.zeros(scale.shape, dtype=torch.bool)
        for line, row in enumerate(active):
            for slot, weight in wanted[row]:
                scale[line, slot.start - span.start : slot.stop - span.start] = weight
                inside[line, slot.start - span.start : slot.stop - span.start] = True
        return _Plan(
            rows=len(uses),
            index=None if len(active) == len(uses) else torch.tensor(active, device=self._device),
            span=span,
            scale=scale.to(self._device),
            outside=None if bool(inside.all()) else ~inside.to(self._device),
        )

    def _room_for(self, rank: int) -> slice:
        """Grow the stack by `rank`, and return where that is."""
        height = self._rank + rank
        if height > MAX_ROWS_OF_RANK:
            raise Exhausted(
                f"the adapters of one base make a rank of {height} together; {MAX_ROWS_OF_RANK} are held",
                reason="ADAPTER_BANK_FULL",
                remedy="evict adapters that nobody draws with (EvictAdapter)",
            )
        for site in self._sites.values():
            site.grow(rank)
        slot = slice(self._rank, height)
        self._rank = height
        return slot

    def _check(self, key: str, name: str, a: Tensor, b: Tensor) -> None:
        module = self._modules.get(name)
        if module is None:
            raise Invalid(
                f"the adapter changes layer {name}, which this base does not have",
                reason="ADAPTER_LAYER_UNKNOWN",
                resource=key,
                remedy="use it with the base that it was trained on",
            )
        if isinstance(module, nn.Conv2d):
            shape, out = tuple(module.weight.shape[1:]), module.out_channels
            if module.groups != 1:
                raise Invalid(
                    f"layer {name} is a grouped convolution", reason="ADAPTER_LAYER_UNSUPPORTED", resource=key
                )
        else:
            shape, out = (int(module.in_features),), int(module.out_features)
        rank = int(a.shape[0])
        if tuple(a.shape[1:]) != shape or b.flatten(1).shape != (out, rank) or rank < 1:
            raise Invalid(
                f"layer {name}: the adapter's matrices {tuple(a.shape)} and {tuple(b.shape)} "
                f"do not fit a layer of {shape} → {out}",
                reason="ADAPTER_SHAPE",
                resource=key,
                remedy="use it with the base that it was trained on",
            )


def _is_target(module: nn.Module) -> bool:
    # A quantised Linear (bitsandbytes) is a subclass of nn.Linear and keeps in_features and out_features.
    return isinstance(module, nn.Linear | nn.Conv2d)
