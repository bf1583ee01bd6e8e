"""Pictures and orders while they are in the step loop."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from marsam.diffusion.sampling import Walk
from marsam.diffusion.spec import Conditioning
from marsam.telemetry import Log
from marsam_generator.engine.lanes import Row
from marsam_generator.engine.work import Event, Order

_log = Log(__name__)


class Group(NamedTuple):
    """What must agree between pictures that share a tick: denoiser, latent shape, shape of the text's states, and
    whether their bits may depend on who else is there."""

    denoiser: str
    latent: tuple[int, ...]
    text: tuple[tuple[str, tuple[int, ...]], ...]
    exact: bool


@dataclass(eq=False)
class Slot:
    """One picture in the loop. `served` is the count of its group's ticks when it was last in one, or came."""

    live: "Live"
    index: int
    walk: Walk
    cond: Conditioning
    uncond: Conditioning | None
    served: int = 0
    group: Group = field(init=False)
    rows: int = field(init=False)
    """Rows that it puts into a tick."""

    def __post_init__(self) -> None:
        text = tuple((name, tuple(value.shape[1:])) for name, value in self.cond.tensors.items())
        order = self.live.order
        self.group = Group(order.denoiser, tuple(self.walk.latent.shape[1:]), text, order.terms.exact)
        self.rows = self.walk.picture.rows

    @property
    def left(self) -> int:
        """Steps still to be done."""
        return self.walk.picture.steps - self.walk.index


@dataclass(eq=False)
class Live:
    """An order in the loop, with those of its pictures that are not done."""

    order: Order
    slots: list[Slot] = field(default_factory=list)
    steps: int = 0
    cancelled: bool = False

    def tell(self, event: Event) -> None:
        """Hand the order's listener an event."""
        try:
            self.order.sink(event)
        except Exception:
            # A listener that is gone (a closed event loop) must not take the loop with it.
            _log.exception("engine.sink_failed", job=self.order.id)
            self.cancelled = True


def rows_of(slot: Slot) -> Iterator[Row]:
    """The rows of a picture's coming step: conditional, then unconditional where guided."""
    noisy, t, adapters = slot.walk.model_input(), slot.walk.t, slot.live.order.adapters
    yield Row(noisy=noisy, t=t, cond=slot.cond, adapters=adapters)
    if slot.uncond is not None:
        yield Row(noisy=noisy, t=t, cond=slot.uncond, adapters=adapters)


def row_of(cond: Conditioning, index: int) -> Conditioning:
    """The row of picture `index`, or the only one."""
    row = index if len(cond) > 1 else 0
    return cond.rows(slice(row, row + 1))
