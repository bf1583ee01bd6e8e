"""Numbers that are not finite in what a run would keep. They never heal: what is computed of them is none either."""

from collections.abc import Mapping, Sequence

import torch

from marsam.core.errors import Precondition
from marsam_trainer.run import codes

REMEDY = "lower the learning rate, or train in fp32"

_NAMED = 3
_OF_STEPS = frozenset({"losses", "validation"})


def not_finite(state: Mapping[str, torch.Tensor]) -> list[str]:
    """The tensors of a loop's state (`Loop.state`) that hold NaN or infinities, by name. The loss of a step that was
    not learnt from may be one."""
    return [name for name, value in state.items() if name not in _OF_STEPS and _holds(value)]


def _holds(value: torch.Tensor) -> bool:
    if not value.is_floating_point() or not value.numel():
        return False
    # NaN goes through both, and nothing as large as the tensor is made.
    return not bool(torch.stack(value.aminmax()).isfinite().all())


def spoilt(names: Sequence[str], step: int, kept: str) -> Precondition:
    """That the state after `step` steps holds such numbers in the tensors `names`; `kept` says what is left."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return Precondition(
        f"step {step} left numbers that are not finite in {', '.join(names[:_NAMED])}{more}, and was not kept; {kept}",
        reason=codes.NOT_FINITE_REASON,
        remedy=REMEDY,
    )
