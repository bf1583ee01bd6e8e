"""What a run may go on from: a checkpoint of the same order, whoever and whatever made it.

What changes the numbers that come next is refused by name. What may change them in the last bits (another version of
the code or of a library, another kind of device, a batch cut otherwise) is allowed and said.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from marsam.catalog.checkpoints import Checkpoint
from marsam.catalog.runs import RunSpec
from marsam.core.errors import Invalid, Violation
from marsam.core.ids import digest_of
from marsam.core.records import canonical, to_plain


def order_of(spec: RunSpec) -> dict[str, Any]:
    """All of an order that says what is trained, as plain data. What is only recorded is left out, and what came later
    while it is at its default, so that a checkpoint from before such a field was there is still of the same order."""
    usual = {entry.name: entry.default for entry in fields(RunSpec) if entry.name in RunSpec.LATER}
    plain = {name: value for name, value in to_plain(spec).items() if name not in RunSpec.RECORDED}
    return {name: value for name, value in plain.items() if name not in usual or value != usual[name]}


def digest(spec: RunSpec) -> str:
    """What a checkpoint calls the order that it is of."""
    return digest_of(canonical(order_of(spec)))


def check(mark: Checkpoint, spec: RunSpec) -> None:
    """Raise `Invalid` (CHECKPOINT_MISMATCH), naming every field that differs, unless the checkpoint is of this order
    but for what may change between attempts (`RunSpec.FREE`). Of a checkpoint that does not hold its order it is known
    only whether that was the same."""
    if mark.spec_digest == digest(spec):
        return
    then, now = mark.order, order_of(spec)
    faults = [
        Violation(
            field=name,
            message=f"{name} was {_told(then, name)} and is {_told(now, name)}",
            reason="CHECKPOINT_MISMATCH",
        )
        for name in sorted({*then, *now} - RunSpec.FREE)
        if then and then.get(name) != now.get(name)
    ]
    if then and not faults:
        return
    raise Invalid(
        "the checkpoint is of another order" + (f": {'; '.join(fault.message for fault in faults)}" if faults else ""),
        field=faults[0].field if faults else None,
        reason="CHECKPOINT_MISMATCH",
        remedy=f"start a new run; between attempts may change: {', '.join(sorted(RunSpec.FREE))}",
        violations=faults,
    )


def remarks(mark: Checkpoint, *, code_version: str, libraries: Mapping[str, str], device: str, lanes: int) -> list[str]:
    """What is another than when the checkpoint was made, and may round otherwise from here on."""
    pairs = [
        ("Marsam", mark.code_version, code_version),
        *((name, mark.libraries.get(name, ""), version) for name, version in libraries.items()),
        ("the device", mark.device, device),
        ("the number of lanes", str(mark.lanes), str(lanes)),
    ]
    return [
        f"{what} was {then} and is {now}: from here on the bits may differ from those of an uninterrupted run"
        for what, then, now in pairs
        if then and then != now
    ]


def _told(order: Mapping[str, Any], name: str) -> str:
    return canonical(order[name]).decode() if name in order else "the default"
