"""What sizes a base draws, and the nearest ones to what was asked."""

import math

from marsam.core.errors import Invalid, Violation
from marsam.diffusion import buckets, registry
from marsam.diffusion.buckets import Size
from marsam.diffusion.spec import BaseFacts

MOST_AREA = 4
"""A picture's pixels over those that the base was made for, at most: beyond, it repeats what it draws, and the memory
of a step grows with the square."""


def bounds(facts: BaseFacts) -> tuple[int, int]:
    """The shortest and the longest side that a base draws, in pixels."""
    family, multiple = registry.family_facts(facts.family), facts.side_multiple
    # A base made for less than its family usually draws may draw what it was made for.
    low = min(-(-family.min_side // multiple) * multiple, facts.default_side)
    return low, family.max_side // multiple * multiple


def like(size: Size, facts: BaseFacts) -> Size:
    """The size that is nearest to a picture's in shape, of about as many pixels as the base was made for."""
    low, high = bounds(facts)
    return buckets.nearest(*size, buckets.sizes(facts.default_side, facts.side_multiple, smallest=low, largest=high))


def check(width: int, height: int, facts: BaseFacts) -> None:
    """Raise `Invalid` unless the base draws pictures of this size: a violation for each side that cannot be, with the
    nearest that can; or one for both, where they are too many pixels together."""
    multiple, (low, high) = facts.side_multiple, bounds(facts)
    faults = [
        Violation(
            field=name,
            message=f"{name} must be a multiple of {multiple} px between {low} and {high}, got {value}",
            reason="SIZE_UNSUPPORTED",
        )
        for name, value in (("width", width), ("height", height))
        if not low <= value <= high or value % multiple
    ]
    near = [" or ".join(map(str, _near(value, multiple, low, high))) for value in (width, height)]
    remedy = "; ".join(f"{fault.field}: use {near[fault.field == 'height']}" for fault in faults)
    most = MOST_AREA * facts.default_side**2
    if not faults and width * height > most:
        shrunk = math.sqrt(most / (width * height))
        fitting = [max(low, int(side * shrunk) // multiple * multiple) for side in (width, height)]
        message = f"{width}×{height} px are more than {MOST_AREA} times what this base was made for"
        faults = [Violation(field="width", message=message, reason="SIZE_UNSUPPORTED")]
        remedy = f"use {fitting[0]}×{fitting[1]}"
    if faults:
        raise Invalid(
            faults[0].message,
            field=faults[0].field,
            reason=faults[0].reason,
            remedy=f"{remedy}; this base was made for {facts.default_side}×{facts.default_side}",
            violations=faults,
        )


def _near(value: int, multiple: int, low: int, high: int) -> list[int]:
    """The legal sides next to `value`, below and above."""
    below = min(max(value // multiple * multiple, low), high)
    return sorted({below, min(below + multiple, high)} if low < value < high else {below})
