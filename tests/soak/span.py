"""How long a soak works, and what its chance is made of.

    MARSAM_SOAK_MINUTES=5 make soak

MARSAM_SOAK_MINUTES: minutes that each soak works, 60 when it is not set, fractions are fine; what must be made ready
before and looked at afterwards comes on top. MARSAM_SOAK_SEED: a whole number that all chance is drawn from; each soak
prints the one that it used, and a failure is tried again with it.
"""

import os
import random
import secrets
import time

MINUTES = float(os.environ.get("MARSAM_SOAK_MINUTES") or 60)
SECONDS = 60 * MINUTES
LIMIT_S = 2 * SECONDS + 1800
"""When pytest gives a soak up: far beyond its work, so that only what hangs is cut off."""


def drawn() -> random.Random:
    """The chance of one soak, from a seed that is printed."""
    seed = int(os.environ.get("MARSAM_SOAK_SEED") or secrets.randbelow(1_000_000))
    print(f"MARSAM_SOAK_SEED={seed} MARSAM_SOAK_MINUTES={MINUTES:g}", flush=True)
    return random.Random(seed)


class Span:
    """The time that a soak works, from now on."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def gone_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    @property
    def over(self) -> bool:
        """Whether no more work is to be begun."""
        return self.gone_s >= SECONDS
