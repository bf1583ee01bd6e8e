"""What the service asks of whoever draws, and what it is told meanwhile. One suite holds every engine to it."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from marsam.catalog.models import Model
from marsam.diffusion.sampling import Picture
from marsam_generator.engine.coder import Start
from marsam_generator.engine.engine import Denoising, Drawn, Progress
from marsam_generator.engine.work import Looked, Previews, Terms


@dataclass(frozen=True, kw_only=True)
class Commission:
    """Pictures to be drawn with a base or fully tuned model and adapters at their weights, from noise alone or all from
    one `start`, whose size is theirs."""

    id: str
    model: Model
    adapters: Sequence[tuple[Model, float]]
    pictures: Sequence[Picture]
    start: Start | None = None
    terms: Terms = field(default_factory=Terms)
    previews: Previews | None = None


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """A commission has its place: `ahead` pictures were in flight before it. Predicted seconds until its first step and
    until its last picture, 0 while nothing was measured; `fingerprint` names build, device and type."""

    ahead: int
    wait_seconds: float
    work_seconds: float
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Residence:
    """A model in memory: bytes, how often it was asked for, and whether it stays until it is evicted by name."""

    size: int
    uses: int
    pinned: bool


@dataclass(frozen=True, kw_only=True)
class Description:
    """What an engine is: its name, its device, the type it computes in, how it holds denoisers (a label of
    `Quantisation`, or empty), and the fingerprint of all that."""

    engine: str
    device: str
    precision: str
    fingerprint: str
    quantisation: str = ""


Said = Admitted | Progress | Looked | Drawn | Denoising
"""`Admitted` first, then progress, looks and pictures as they come, `Denoising` last."""


class DrawingEngine(Protocol):
    """Methods are called from one event loop."""

    def draw(self, commission: Commission) -> AsyncGenerator[Said, None]:
        """Draw; closing the generator frees the device within a tick.

        Raises `Exhausted` when it may not wait, `Deadline`, and whatever stopped the drawing.
        """
        ...

    async def describe(self) -> Description:
        """What draws."""
        ...

    async def load(self, model: Model, base: Model | None, *, pin: bool) -> None:
        """Bring a base, a tuned model, or an adapter of `base` into memory; `pin` keeps it there."""
        ...

    async def evict(self, model: Model) -> None:
        """Take a model out of memory, pinned or not. Raises `Missing` when it is not there, `Precondition` while it
        draws."""
        ...

    async def residents(self) -> Mapping[str, Residence]:
        """What is in memory, by the digests of the models."""
        ...

    async def close(self) -> None:
        """Take everything out of memory; what is being drawn fails with `Unavailable`."""
        ...
