"""On which terms a base may be trained: its licence, and whether it was made to be."""

from collections.abc import Callable
from datetime import datetime

from marsam.catalog.acceptance import Acceptance
from marsam.catalog.models import Model
from marsam.core.errors import Invalid
from marsam_trainer import licences
from marsam_trainer.orders import Fault, Order, faults_of


def licence(
    order: Order, model: Model, *, by: str, at: Callable[[], datetime]
) -> tuple[Acceptance | None, list[Fault]]:
    """The acceptance that `by` makes a run under, where the base's licence asks for one."""
    try:
        accepted = licences.accepted(
            model.licence, given=order.accept_licence, known=model.accepted, by=by, at=at, field="accept_licence"
        )
    except Invalid as error:
        return None, faults_of(error, field="accept_licence")
    return accepted, []


def warnings(model: Model) -> tuple[Fault, ...]:
    """What is worth knowing of a licence that nobody here knows."""
    if not model.licence:
        words = f"{model.name} states no licence"
    elif licences.terms(model.licence) is licences.Terms.UNKNOWN:
        words = f"the licence of {model.name}, {model.licence}, is none that is known here"
    else:
        return ()
    return (Fault(field="base", reason="LICENCE_UNKNOWN", message=f"{words}: see yourself what it allows"),)


def distilled(order: Order) -> Fault:
    """The fault of an order for a base that was distilled, where that is not said to be meant."""
    return Fault(
        field="base",
        reason="DISTILLED_BASE",
        message=f"{order.base} was distilled to draw in a few steps; training on pictures undoes that",
        remedy="train the base that it was distilled from, or say allow_distilled (--allow-distilled)",
    )
