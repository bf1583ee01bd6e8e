"""A stepper over a denoiser that answers at once, by a clock that only its forwards move: what is left is the order."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from marsam_generator.engine.bank import AdapterBank
from marsam_generator.engine.forwards import Denoiser
from marsam_generator.engine.lanes import Lanes
from marsam_generator.engine.stepper import Cut, Stepper, Tick
from marsam_generator.engine.width import Widths
from marsam_generator.engine.work import Denoised, Event, Failed, Order, Terms

from marsam.diffusion import registry
from marsam.diffusion.sampling import Picture
from marsam.diffusion.spec import BaseFacts, Conditioning

BASE = "base"


class Wide(Widths):
    """Widths that are given, not measured."""

    def of(self, key: object, cost: Callable[[int], float]) -> int:
        return self._cap(key)


class Still:
    """Its prediction is zero; a forward of n rows takes `cost(n)` seconds of its clock."""

    def __init__(self, cost: Callable[[int], float] = lambda rows: 1.0) -> None:
        self.now = 0.0
        self.cost = cost
        self.forwards: list[int] = []

    def predict(self, denoiser: object, noisy: torch.Tensor, t: torch.Tensor, cond: object, **_: Any) -> torch.Tensor:
        self.forwards.append(noisy.shape[0])
        self.now += self.cost(noisy.shape[0])
        return torch.zeros_like(noisy)


def facts_of(folder: Path) -> BaseFacts:
    return registry.family("sd1").load(folder).facts


def still(facts: BaseFacts) -> Denoiser:
    """A denoiser for a family that does not use it."""
    return Denoiser(module=torch.nn.Identity(), bank=AdapterBank(torch.nn.Linear(1, 1)), facts=facts)


class Hall:
    """A stepper, and what everybody in it was told."""

    def __init__(self, facts: BaseFacts, *, width: int = 4, family: Any = None, lanes: int = 1) -> None:
        self.family = family or Still()
        self.ticks: list[Tick] = []
        self.cuts: list[Cut] = []
        self.told: dict[str, list[Event]] = {}
        self._ids = itertools.count()
        self.widths = Wide(limit=width)
        self.stepper = Stepper(
            family=self.family,
            denoisers={BASE: still(facts)},
            device="cpu",
            lanes=Lanes(lanes),
            widths=self.widths,
            observe=self.ticks.append,
            cut=self.cuts.append,
            clock=lambda: self.family.now,
        )

    def order(self, steps: int | Sequence[int] = 4, *, side: int = 16, guided: bool = False, **terms: Any) -> Order:
        """An order of a picture per number of steps."""
        name = f"order {next(self._ids)}"
        events = self.told[name] = []
        all_steps = [steps] if isinstance(steps, int) else steps
        text = Conditioning({"hidden": torch.zeros(1, 4, 8)})
        return Order(
            id=name,
            denoiser=BASE,
            pictures=[
                Picture(prompt="", seed=0, width=side, height=side, steps=some, guidance=2.0 if guided else 1.0)
                for some in all_steps
            ],
            conditional=text,
            unconditional=text if guided else None,
            sink=events.append,
            terms=Terms(**terms),
        )

    def enter(self, steps: int | Sequence[int] = 4, **fields: Any) -> str:
        """Admit an order; gives its name."""
        order = self.order(steps, **fields)
        self.stepper.admit(order)
        return order.id

    def turn(self) -> None:
        """What the loop's thread does once."""
        self.stepper.expire()
        self.stepper.tick()

    def until_done(self, name: str, *, most: int = 1000) -> int:
        """Ticks until an order is over."""
        for count in range(most):
            if self.over(name):
                return count
            self.turn()
        raise AssertionError(f"{name} was not over after {most} ticks")

    def over(self, name: str) -> bool:
        """Whether an order was told its end: all its pictures, or a failure."""
        return (self.pictures(name) > 0 and name not in self.stepper._roster.live) or self.failed(name) is not None

    def pictures(self, name: str) -> int:
        return sum(isinstance(event, Denoised) for event in self.told[name])

    def failed(self, name: str) -> Failed | None:
        return next((event for event in self.told[name] if isinstance(event, Failed)), None)
