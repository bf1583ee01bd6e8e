"""How an order is spread over several processes."""

from typing import cast, get_args

from marsam.catalog.runs import Sharding
from marsam.core.errors import Invalid, did_you_mean
from marsam.diffusion import registry
from marsam.diffusion.method import Kind
from marsam_trainer.ground import Room
from marsam_trainer.orders import Fault, Order, faults_of

_SHARDINGS: tuple[str, ...] = get_args(Sharding)
_BATCH = 4


def faults(order: Order) -> list[Fault]:
    """What forbids to spread `order` as it asks."""
    count, found = order.processes or 1, []
    if order.sharding and order.sharding not in _SHARDINGS:
        fault = Fault(
            field="sharding",
            reason="UNKNOWN_SHARDING",
            message=f"unknown sharding '{order.sharding}'",
            remedy=did_you_mean(order.sharding, _SHARDINGS),
        )
        found.append(fault)
    if order.sharding == "sharded" and count == 1:
        fault = Fault(
            field="sharding",
            reason="SHARDING_ALONE",
            message="a model is sharded over 2 processes or more, and the run has 1",
            remedy="set processes, or leave sharding out",
        )
        found.append(fault)
    if order.batch_size is not None and 1 <= order.batch_size < count:
        fault = Fault(
            field="processes",
            reason="PROCESSES_IDLE",
            message=f"{order.batch_size} pictures at once cannot be shared out among {count} processes",
            remedy=f"raise batch_size to {count} or a multiple of it",
        )
        found.append(fault)
    return found


def batch_size(order: Order) -> int:
    """Pictures in memory at once where the order does not say: as many for each process, and 4 or more."""
    count = order.processes or 1
    return count * -(-_BATCH // count)


def sharding(order: Order) -> Sharding:
    """How several processes hold the model: what trains whole takes four times its size, so that is shared out."""
    if order.sharding:
        return cast(Sharding, order.sharding)
    trains_all = registry.method(order.method).facts.kind is Kind.FULL
    return "sharded" if trains_all and (order.processes or 1) > 1 else "replicated"


def room_faults(order: Order, room: Room) -> list[Fault]:
    """Faults of an order whose processes have no place where runs run; `room` raises Invalid for those."""
    try:
        room(order.processes or 1, order.profile)
    except Invalid as error:
        return faults_of(error, field="processes")
    return []
