"""What a piece of work would hold and compute, found on torch's meta device, where tensors have a shape and no bytes.

Every operation passes by: what it makes is live from then until nothing refers to it any more. So the largest sum is
the one that the work itself has, with the tensors that autograd keeps, those that blocks computed again throw away, and
what is let go on the way back.
"""

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_number = torch.ops.aten._local_scalar_dense.default
_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_fused_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True, kw_only=True)
class Traced:
    """`peak`: most bytes that are live at a time. `results`: how many of those belong to what the work returns, and
    `returned`: how many that holds in the end. `flops`: arithmetic operations."""

    peak: int
    results: int
    returned: int
    flops: float

    def times(self, lanes: int, *, share: float, beside: int = 0) -> "Traced":
        """So many lanes of it, each with `beside` bytes of input; operations as often as the whole has such shares."""
        return replace(self, peak=lanes * (self.peak + beside), results=0, flops=self.flops * max(1.0, share))


def trace(work: Callable[[], Any], *, there: Iterable[torch.Tensor] = ()) -> Traced:
    """Do `work` on the meta device. What is `there` before it counts for nothing."""
    ledger = _Ledger(there)
    with _one_attention(), ledger:
        returned = work()
    kept = {value.untyped_storage()._cdata for value in tree_leaves(returned) if isinstance(value, torch.Tensor)}
    peak, results = ledger.peak({ledger.entry_of(key) for key in kept})
    return Traced(
        peak=peak,
        results=results,
        returned=sum(ledger.size_of(key) for key in kept),
        flops=ledger.flops,
    )


class _Ledger(TorchDispatchMode):
    """Storages as they come and go, and operations as they are counted. An entry is a number, because addresses are
    used again."""

    def __init__(self, there: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.flops = 0.0
        self._changes: list[tuple[int, int]] = []
        self._live: dict[int, tuple[int, int, Any]] = {}
        for value in there:
            storage = value.untyped_storage()
            self._live[storage._cdata] = (-1, 0, storage)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _number:
            # Encoders ask whether their mask masks anything. It does.
            return args[0].dtype.is_floating_point and 0.0
        made = func(*args, **(kwargs or {}))
        count = _COUNTS.get(func._overloadpacket)
        if count is not None:
            self.flops += float(count(*args, **(kwargs or {}), out_val=made))
        for value in tree_leaves(made):
            if isinstance(value, torch.Tensor):
                self._note(value.untyped_storage())
        return made

    def _note(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._live:
            return
        entry, size = len(self._changes), int(storage.nbytes())

        def gone(_: Any) -> None:
            self._changes.append((entry, -size))
            del self._live[key]

        self._changes.append((entry, size))
        self._live[key] = (entry, size, weakref.ref(storage, gone))

    def entry_of(self, key: int) -> int:
        return self._live[key][0] if key in self._live else -1

    def size_of(self, key: int) -> int:
        return self._live[key][1] if key in self._live else 0

    def peak(self, of: set[int]) -> tuple[int, int]:
        """(most bytes live at a time, how many of them are of the entries `of`)."""
        best = best_of = total = total_of = 0
        for entry, change in self._changes:
            total += change
            total_of += change if entry in of else 0
            if total > best:
                best, best_of = total, total_of
        return best, best_of


@contextlib.contextmanager
def _one_attention() -> Iterator[None]:
    """Attention as devices do it, in pieces that never stand in memory whole. The meta device would multiply it out.

    Put in the place of torch's own, because blocks that are computed again on the way back are asked by nobody else.
    """
    usual = torch.nn.functional.scaled_dot_product_attention

    def chosen(query: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        return (_attention if query.is_meta else usual)(query, *arguments, **options)

    torch.nn.functional.scaled_dot_product_attention = chosen
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = usual


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    # The meta kernel takes four dimensions; a key or value shared by heads is seen by each of them.
    heads = query.shape[-3]
    shape = (*query.shape[:-1], value.shape[-1])
    query, key, value = (part.reshape(-1, *part.shape[-3:]) for part in (query, key, value))
    key, value = (part.expand(-1, heads, -1, -1) if part.shape[1] == 1 else part for part in (key, value))
    if key.shape[1] != heads:
        key, value = (part.repeat_interleave(heads // part.shape[1], dim=1) for part in (key, value))
    return _fused(query, key, value, 0.0, is_causal, scale=scale)[0].reshape(shape)


def _forward_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _backward_flops(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape))


_COUNTS = {**flop_registry, _fused: _forward_flops, _fused_backward: _backward_flops}
