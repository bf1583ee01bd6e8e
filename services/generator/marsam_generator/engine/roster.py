"""Who is in the loop, and who goes next.

Tenants share the device by seconds, and a tenant's seconds are shared by its groups (pictures that may share a tick). A
tick belongs to the tenant that had least, which chooses its group; others with pictures of that group fill it up, each
paying for its rows. Inside a tenant and group the higher priority goes first, then the least remaining work; waiting
raises both, so nobody waits for ever.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

from marsam_generator.engine.slots import Group, Live, Slot
from marsam_generator.engine.turns import Turns

PATIENCE = 1.0
"""Steps by which a picture's remaining work counts as less for every tick of its group that it waited: the short go
first, the long still go.
"""
LIFT = 64
"""Ticks of its group that a picture waits for its priority to count as one higher."""

_UNMEASURED = 1e-6
"""Seconds that a row counts before its group's first tick: so that even then tenants take turns."""


class Roster:
    """The orders in the loop. Belongs to one thread."""

    def __init__(self) -> None:
        self.live: dict[str, Live] = {}
        self._tenants: Turns[str] = Turns()
        self._groups: dict[str, Turns[Group]] = {}
        self._waiting: dict[str, dict[Group, list[Slot]]] = {}
        self._ticks: defaultdict[Group, int] = defaultdict(int)
        self._row_seconds: dict[Group, float] = {}

    def add(self, live: Live) -> None:
        """Take an order in."""
        self.live[live.order.id] = live
        groups = self._waiting.setdefault(live.order.terms.tenant, {})
        for slot in live.slots:
            slot.served = self._ticks[slot.group]
            groups.setdefault(slot.group, []).append(slot)

    def finish(self, slot: Slot) -> None:
        """Take a picture out; its order goes with its last."""
        live, tenant = slot.live, slot.live.order.terms.tenant
        live.slots.remove(slot)
        self._waiting[tenant][slot.group].remove(slot)
        if not self._waiting[tenant][slot.group]:
            del self._waiting[tenant][slot.group]
        if not self._waiting[tenant]:
            del self._waiting[tenant]
            self._groups.pop(tenant, None)
        if not live.slots:
            self.live.pop(live.order.id, None)
        if not any(slot.group in groups for groups in self._waiting.values()):
            self._ticks.pop(slot.group, None)
            self._row_seconds.pop(slot.group, None)

    def remove(self, live: Live) -> None:
        """Take an order out with all its pictures."""
        for slot in list(live.slots):
            self.finish(slot)
        self.live.pop(live.order.id, None)

    def lead(self) -> Slot | None:
        """The picture whose group and tenant the coming tick belongs to; None when nobody is here."""
        if not self._waiting:
            return None
        self._tenants.wait(self._waiting)
        tenant = self._tenants.first(self._waiting)
        groups = self._groups.setdefault(tenant, Turns())
        groups.wait(self._waiting[tenant])
        group = groups.first(self._waiting[tenant])
        return min(self._waiting[tenant][group], key=_urgency(self._ticks[group]))

    def choose(self, lead: Slot, width: int) -> list[Slot]:
        """The pictures of a tick of `width` rows that belongs to `lead`, which is in it however narrow that is."""
        group = lead.group
        urgency = _urgency(self._ticks[group])
        queues = {
            tenant: sorted(groups[group], key=urgency) for tenant, groups in self._waiting.items() if group in groups
        }
        had = {tenant: self._tenants.had(tenant) for tenant in queues}
        price = self._row_seconds.get(group) or _UNMEASURED
        picked: list[Slot] = []
        mine: str | None = lead.live.order.terms.tenant  # the first place is its own; then the shares decide
        while queues and (width > 0 or mine is not None):
            tenant = min(queues, key=had.__getitem__) if mine is None else mine
            slot = next((one for one in queues[tenant] if one.rows <= width or mine is not None), None)
            mine = None
            if slot is None:
                del queues[tenant]
                continue
            queues[tenant].remove(slot)
            picked.append(slot)
            width -= slot.rows
            had[tenant] += price * slot.rows
        return picked

    def served(self, picked: Sequence[Slot], seconds: float) -> None:
        """A tick of these pictures took so long: everybody pays for its rows. Before any of them is taken out."""
        group = picked[0].group
        self._ticks[group] += 1
        row_seconds = self._row_seconds[group] = seconds / sum(slot.rows for slot in picked)
        for slot in picked:
            slot.served = self._ticks[group]
            tenant = slot.live.order.terms.tenant
            self._tenants.charge(tenant, row_seconds * slot.rows)
            groups = self._groups.setdefault(tenant, Turns())
            groups.wait(self._waiting[tenant])
            groups.charge(group, row_seconds * slot.rows)


def _urgency(ticks: int) -> Callable[[Slot], tuple[float, float]]:
    """Who of a group that had so many ticks goes first, the least."""

    def key(slot: Slot) -> tuple[float, float]:
        waited = ticks - slot.served
        return -(slot.live.order.terms.priority + waited // LIFT), slot.left - PATIENCE * waited

    return key
