"""Whether training had any effect: what did not move, and whether what was learnt changes a picture."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from marsam.core.errors import Invalid
from marsam.diffusion.adapter.net import muted
from marsam_trainer.run import codes, optimisers
from marsam_trainer.run.drawing import Drawing
from marsam_trainer.run.loop import Loop

EARLY = 10
"""Steps after which a run is asked whether anything moves at all: long before hours went by for nothing."""

_NAMED = 3
"""Parameters that are named, of those that did not move; the others are counted."""


class Start:
    """What a rank's parameters were before their first step, as digests of their bytes: a copy would cost their memory
    again."""

    def __init__(self, trained: Mapping[str, torch.nn.Parameter]) -> None:
        self._digests = {name: _digest(value) for name, value in trained.items()}

    def still(self, loop: Loop) -> tuple[list[str], int]:
        """The parameters that are what they were to the bit on every rank that holds a part of them, or never had a
        gradient, for weight decay alone moves those too; and of how many. All ranks must ask."""
        idle = optimisers.without_gradient(loop.optimiser, loop.trained)
        here = {
            name: name not in idle and _digest(value) != self._digests[name] for name, value in loop.trained.items()
        }
        every = loop.world.gathered(here)
        moved = {name for rank in every for name, moves in rank.items() if moves}
        names = dict.fromkeys(name for rank in every for name in rank)
        return [name for name in names if name not in moved], len(names)

    def check(self, loop: Loop) -> str:
        """What to say of parameters that did not move, '' when all did. Raises `Invalid` (TRAINED_NOTHING) when none
        did.

        An adapter's second halves move first, so before a second step from finite losses nobody else is asked about.
        """
        still, count = self.still(loop)
        if len(still) == count:
            raise Invalid(
                f"after {loop.position.step} steps every parameter is what it was before the first",
                reason=codes.TRAINED_NOTHING_REASON,
                remedy="raise learning_rate; if losses were no numbers, train in fp32",
            )
        learnt = sum(math.isfinite(loss) for loss in loop.position.losses)
        if not still or learnt < 2:
            return ""
        more = f" and {len(still) - _NAMED} more" if len(still) > _NAMED else ""
        return f"{len(still)} of {count} trained parameters did not move: {', '.join(still[:_NAMED])}{more}"


def check_picture(drawing: Drawing, modules: Iterable[Any]) -> str:
    """Draw one prompt with the adapter and without it, at equal seed. What to say if that could not be done, else ''.

    Raises `Invalid` (TRAINED_NOTHING) when the adapter changes no pixel.
    """
    one = drawing.only(0)
    learnt = one.draw()
    with muted(modules):
        before = one.draw() if learnt is not None else None
    if learnt is None or before is None:
        return "whether the adapter changes a picture is not known: none could be drawn"
    if learnt == before:
        raise Invalid(
            "the adapter changes no pixel of a picture",
            reason=codes.TRAINED_NOTHING_REASON,
            remedy="raise learning_rate, steps or alpha, or lower ema_decay",
        )
    return ""


def _digest(value: torch.Tensor) -> bytes:
    data = value.detach().to("cpu").contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(data, digest_size=16).digest()
