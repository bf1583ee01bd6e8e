"""The adapter bank: every resident low-rank adapter beside the base, and each row of a batch picks its own.

Rows next to each other that ask for the same make a run. Where a run asks for an adapter, the layer's output takes
``weight · (x Aᵀ) B`` of its rows in place, with α/r inside B. Nothing is fused: the base's own parameters are never
written, and a row without an adapter is not even computed, so it equals the base bit for bit. No row meets the numbers
of an adapter that it did not ask for, so one that overflows stays in its own rows. Memory is that of the adapters'
tensors and not more; coming and going copies none of them.

DoRA (arXiv 2402.09353) is applied without writing weights too. With o the layer's output without its bias and m/‖V‖
measured when the adapter is prepared, W' = m/‖V‖ · (W + α/r · B·A) makes of it o + (m/‖V‖ - 1) · o + (x Aᵀ) B, with
m/‖V‖ inside B. At weight w the row goes that share of the way, as `adapter.dora` says.

Sources: Hu et al., LoRA (arXiv 2106.09685) for W + (α/r)·B·A; Chen et al., Punica (arXiv 2310.18547) for many
adapters in one batch.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from marsam.core.errors import Corrupt, Invalid, Missing
from marsam.diffusion.adapter.net import Adapter
from marsam.diffusion.held.net import whole
from marsam_generator.engine.mix import Mix
from marsam_generator.engine.site import Share, Site


@dataclass(frozen=True, kw_only=True)
class PreparedAdapter:
    """An adapter whose numbers and shapes were checked, ready to be put into the bank between two ticks. `text` is
    what belongs into the banks of text encoders, by folder."""

    key: str
    layers: Mapping[str, Share]
    dora: bool
    text: Mapping[str, "PreparedAdapter"] = field(default_factory=dict)

    @cached_property
    def size_bytes(self) -> int:
        """Bytes that it holds in all banks. Counted once: every request asks whether memory holds."""
        own = sum(part.nbytes for share in self.layers.values() for part in share.tensors)
        return own + sum(one.size_bytes for one in self.text.values())


class AdapterBank:
    """The adapters resident beside one denoiser. Changed only between ticks; read by any number of threads during
    one.

    `prepare` may run anywhere; `install` and `evict` must run while no forward of the model runs.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = {name: module for name, module in model.named_modules() if _is_target(module)}
        parameters = list(model.parameters())
        dtype = next((one.dtype for one in parameters if one.is_floating_point()), torch.float32)
        self._like = torch.empty(0, device=parameters[0].device, dtype=dtype)
        self._sites: dict[str, Site] = {}
        self._adapters: dict[str, PreparedAdapter] = {}
        self._mixes = threading.local()

    @property
    def resident(self) -> Mapping[str, int]:
        """Adapter key → bytes of its tensors, those in the banks of text encoders among them."""
        return {key: one.size_bytes for key, one in list(self._adapters.items())}

    @property
    def size_bytes(self) -> int:
        """Bytes of all adapters. May be read from any thread."""
        return sum(self.resident.values())

    def prepare(self, key: str, adapter: Adapter) -> PreparedAdapter:
        """Check an adapter, bring it to the model's device and type, fold α/r into B and measure DoRA's lengths. Its
        share of text encoders is `Reader.prepare`'s.

        Raises `Invalid` for a layer that the model lacks or whose shape differs, `Corrupt` for a number that is not
        finite in that type.
        """
        if not adapter.pairs:
            raise Invalid("the adapter holds no layer", reason="ADAPTER_EMPTY", resource=key)
        layers: dict[str, Share] = {}
        for name, (a, b) in adapter.pairs.items():
            self._check(key, name, a, b)
            share = layers[name] = self._share(name, a, b, adapter)
            if not all(bool(torch.isfinite(part).all()) for part in share.tensors):
                raise Corrupt(
                    f"layer {name} of the adapter holds numbers that are not finite in {self._like.dtype}",
                    reason="ADAPTER_NOT_FINITE", resource=key,
                    remedy="train it again, or leave this checkpoint out",
                )  # fmt: skip
        return PreparedAdapter(key=key, layers=layers, dora=adapter.shape.dora)

    def install(self, adapter: PreparedAdapter) -> None:
        """Put a prepared adapter beside the others; the same key again is a no-op."""
        if adapter.key in self._adapters:
            return
        for name, share in adapter.layers.items():
            if name not in self._sites:
                self._sites[name] = Site(name, self._modules[name], self._mixes)
            self._sites[name].put(adapter.key, share)
        self._adapters[adapter.key] = adapter

    def evict(self, key: str) -> None:
        """Forget an adapter and give its memory back. Raises `Missing` when it is not resident."""
        if key not in self._adapters:
            raise Missing(f"adapter {key} is not resident", reason="ADAPTER_NOT_RESIDENT", resource=key)
        for name in self._adapters.pop(key).layers:
            self._sites[name].drop(key)
            if self._sites[name].idle:
                self._sites.pop(name).release()

    def check(self, use: Mapping[str, float]) -> None:
        """Whether a row may ask for this, adapter key → weight. Raises `Missing` for an adapter that is not resident,
        `Invalid` for a DoRA adapter beside another: which of the two scales the other is nowhere defined."""
        for key in use:
            if key not in self._adapters:
                raise Missing(f"adapter {key} is not resident", reason="ADAPTER_NOT_RESIDENT", resource=key)
        acting = [key for key, weight in use.items() if weight != 0]
        for key in acting:
            if self._adapters[key].dora and len(acting) > 1:
                raise dora_beside_others(key)

    @contextmanager
    def rows(self, uses: Sequence[Mapping[str, float]], *, apart: bool = False) -> Iterator[None]:
        """Within this block, on this thread, row i of a forward applies ``uses[i]``: adapter key → weight.

        With `apart` every row is computed by itself, so that its bits do not depend on what its neighbours ask for.
        Raises as `check`.
        """
        for use in uses:
            self.check(use)
        mix = Mix(uses, apart=apart, like=self._like)
        self._mixes.current = None if mix.asks_nothing else mix
        try:
            yield
        finally:
            self._mixes.current = None

    def _share(self, name: str, a: Tensor, b: Tensor, adapter: Adapter) -> Share:
        down = a.detach().to(self._like.device)
        up = b.detach().to(self._like.device).flatten(1).float() * adapter.shape.scale_of(name)
        stretch: Tensor | None = None
        if adapter.shape.dora:
            # ‖V‖ in fp32, as training measures it (`adapter.dora`).
            tuned = whole(self._modules[name]).flatten(1) + up @ down.float().flatten(1)
            ratio = adapter.magnitudes[name].to(self._like.device).flatten() / tuned.norm(dim=1)
            up = up * ratio[:, None]
            stretch = (ratio - 1.0).view(-1, *(1 for _ in a.shape[2:]))
        return Share(down=down.to(self._like.dtype), up=up.t().to(self._like.dtype).contiguous(), stretch=stretch)

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


def dora_beside_others(adapter: str) -> Invalid:
    """What is said of a DoRA adapter that is to be composed."""
    return Invalid(
        f"{adapter} is a DoRA adapter: it scales what a layer puts out, so beside another adapter its picture would "
        "depend on which of them comes first",
        reason="ADAPTER_COMPOSITION",
        field="adapters",
        resource=adapter,
        remedy="draw with it alone, or train it without dora",
    )


def _is_target(module: nn.Module) -> bool:
    # A quantised Linear is a subclass of nn.Linear and keeps in_features and out_features.
    return isinstance(module, nn.Linear | nn.Conv2d)
