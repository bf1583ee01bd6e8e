"""From rows to one forward of a denoiser, and what is kept from one tick to the next."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from marsam.diffusion.conditionings import join
from marsam.diffusion.spec import BaseFacts, Conditioning, Family
from marsam_generator.engine.bank import AdapterBank
from marsam_generator.engine.lanes import Forward, Row

EXACT_ROWS = 4
"""Rows of every forward whose bits must not depend on the load: at one width a row's numbers are the same wherever in
the batch it stands and whoever is beside it."""
JOINED_KEPT = 16
"""Sets of rows whose conditionings are kept joined: pictures stay together for many ticks."""
JOINED_BYTES = 256 * 2**20
"""Of those sets, in the device's memory; the newest is kept whatever its size, being in use. A row of Flux is 8 MiB."""


@dataclass(frozen=True, kw_only=True)
class Denoiser:
    """A denoiser that the loop can drive, with the bank of the adapters that act on it, and what its files say of
    it: a tuned one may have another scheduler than its base."""

    module: torch.nn.Module
    bank: AdapterBank
    facts: BaseFacts


class Forwards:
    """Makes the forwards of one base's denoisers. They may run on several threads at once."""

    def __init__(self, *, family: Family, device: str) -> None:
        self._family = family
        self._device = device
        self._lock = threading.Lock()
        self._joined: OrderedDict[tuple[int, ...], tuple[list[Conditioning], Conditioning]] = OrderedDict()
        self._joined_bytes = 0

    def of(self, denoiser: Denoiser, *, exact: bool) -> Forward:
        """The forward of a denoiser. An exact one takes at most `EXACT_ROWS`, fills up what is missing, and applies
        every row's adapters by themselves."""

        def forward(rows: Sequence[Row]) -> torch.Tensor:
            noisy = torch.cat([row.noisy for row in rows]).to(self._device)
            times = torch.tensor([row.t for row in rows], dtype=torch.float64)
            cond = self._join([row.cond for row in rows])
            train_steps = denoiser.facts.train_steps
            with torch.inference_mode(), denoiser.bank.rows([row.adapters for row in rows], apart=exact):
                predicted = self._family.predict(denoiser.module, noisy, times, cond, train_steps=train_steps)
            return predicted.float().cpu()

        def filled(rows: Sequence[Row]) -> torch.Tensor:
            first = rows[0]
            idle = Row(noisy=first.noisy, t=first.t, cond=first.cond, adapters={})
            return forward([*rows, *[idle] * (EXACT_ROWS - len(rows))])[: len(rows)]

        return filled if exact else forward

    def _join(self, conds: list[Conditioning]) -> Conditioning:
        key = tuple(map(id, conds))  # theirs for as long as they are kept here
        with self._lock:
            found = self._joined.get(key)
            if found is not None:
                self._joined.move_to_end(key)
                return found[1]
        joined = join(conds).to(self._device)
        with self._lock:
            if key not in self._joined:  # another lane may have been as quick
                self._joined[key] = (conds, joined)
                self._joined_bytes += joined.nbytes
            while len(self._joined) > JOINED_KEPT or (self._joined_bytes > JOINED_BYTES and len(self._joined) > 1):
                self._joined_bytes -= self._joined.popitem(last=False)[1][1].nbytes
        return joined

    def forget(self) -> None:
        """Let go of what is kept; called when nobody draws."""
        with self._lock:
            self._joined.clear()
            self._joined_bytes = 0
