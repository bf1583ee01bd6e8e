"""What of an order may change when its run goes on."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from marsam.catalog.runs import RunSpec
from marsam.core.errors import Invalid
from marsam.core.records import to_plain
from marsam_trainer.orders import Fault, as_error

_WHY = {
    "steps": "the learning rate falls to zero over all steps, so those taken already would have been others",
    "warmup_steps": "the learning rate of steps taken already would have been another",
    "output_model_id": "the id was reserved when the run was created; give the model an alias instead",
}


def refused(path: str) -> Fault:
    """The fault of a change that would make what is learnt from here on another thing than what was begun."""
    name = path.partition(".")[0]
    known = name in RunSpec.__dataclass_fields__
    why = _WHY.get(name, "what was learnt so far was learnt otherwise") if known else "a run has no such field"
    return Fault(
        field=path,
        reason="CHANGE_REFUSED",
        message=f"{path} may not change when a run goes on: {why}",
        remedy=f"what may: {', '.join(sorted(RunSpec.FREE))}; for anything else start a new run",
    )


def checked(spec: RunSpec, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Allowed `changes` to `spec`, by field, as plain data; None stands for the default. Raises `Invalid`."""
    usual: dict[str, Any] = {"gradient_checkpointing": False, "checkpoint_every": spec.checkpoint_every}
    wanted: dict[str, Any] = {name: usual.get(name) if value is None else value for name, value in changes.items()}
    try:
        found = to_plain(replace(spec, **wanted))
    except Invalid as error:
        faults = [Fault(field=one.field, reason=one.reason, message=one.message) for one in error.violations]
        raise as_error(faults) from error
    return {name: found[name] for name in wanted}
