"""What goes into the step loop and what comes out of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from marsam.core.errors import Invalid, MarsamError
from marsam.diffusion.sampling import Ground, Picture
from marsam.diffusion.spec import Conditioning


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """Steps taken so far over all pictures of the order, of all that it needs; `rows` shared the tick that `began`
    then.
    """

    done: int
    of: int
    rows: int
    began: float


@dataclass(frozen=True, kw_only=True)
class Denoised:
    """Picture `index` is a clean latent (1, C, h, w) on the CPU."""

    index: int
    latent: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Glimpsed:
    """The clean latent (1, C, h, w) that picture `index` was heading for after `step` of its `steps`."""

    index: int
    step: int
    steps: int
    latent: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Looked:
    """A look (JPEG) at picture `index` after `step` of its `steps`."""

    index: int
    step: int
    steps: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The order ended without its pictures; its place in the loop is free. The last event of an order."""

    error: MarsamError


Event = Stepped | Glimpsed | Denoised | Failed


@dataclass(frozen=True, kw_only=True)
class Previews:
    """A look at each picture after every `every_steps` of its steps, at most `max_side` pixels on the longest side."""

    every_steps: int
    max_side: int


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How an order is served. `deadline` is a monotonic time; among the orders of one `tenant` the higher `priority`
    goes first; `exact` asks for the same bits under any load."""

    tenant: str = ""
    priority: int = 0
    exact: bool = False
    deadline: float | None = None


@dataclass(frozen=True, kw_only=True)
class Order:
    """Pictures of one request. `sink` is called on the loop's thread and must return at once.

    `denoiser` names one of the loop's denoisers, `adapters` are keys of its bank with their weights. `conditional`
    holds one row per picture or one for all, `unconditional` the same where guided. All pictures start from `ground`,
    if there is one.
    """

    id: str
    denoiser: str
    pictures: Sequence[Picture]
    conditional: Conditioning
    unconditional: Conditioning | None
    sink: Callable[[Event], None]
    adapters: Mapping[str, float] = field(default_factory=dict)
    ground: Ground | None = None
    terms: Terms = field(default_factory=Terms)
    look_every: int = 0
    """After every so many steps of a picture there is a `Glimpsed`; 0 for none."""

    def __post_init__(self) -> None:
        if not self.pictures:
            raise Invalid("an order needs at least one picture", field="count")
        if self.unconditional is None and any(picture.guided for picture in self.pictures):
            raise Invalid("a guided picture needs an unconditional prompt", field="guidance")

    @property
    def steps(self) -> int:
        """Steps of all its pictures."""
        return sum(picture.taken for picture in self.pictures)
