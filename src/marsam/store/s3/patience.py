"""How long, and how often, a server that is away is asked again."""

import asyncio
import random
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from marsam.core.errors import Unavailable
from marsam.store.threads import offload

P = ParamSpec("P")
R = TypeVar("R")

_FIRST_S = 0.1
_LONGEST_S = 3.0


class Pauses:
    """Waits between tries, growing, for `seconds` in all, and `at_least` so many of them however long those took."""

    def __init__(self, seconds: float, *, at_least: int) -> None:
        self._end = asyncio.get_running_loop().time() + seconds
        self._next = _FIRST_S
        self._owed = at_least

    async def another(self) -> bool:
        """Wait and say True; say False at once when it is time to give up."""
        if self._owed <= 0 and asyncio.get_running_loop().time() + self._next > self._end:
            return False
        # Not in step with all the others who wait for the same server.
        await asyncio.sleep(self._next * random.uniform(0.5, 1.0))
        self._next = min(2 * self._next, _LONGEST_S)
        self._owed -= 1
        return True


async def patiently(seconds: float, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run blocking `work`, which may be done twice without harm, on a thread, and again while the server is away: once
    at least, because one that hung has used up all patience itself.

    Raises what it raises; Unavailable only after `seconds` of trying.
    """
    pauses = Pauses(seconds, at_least=1)
    while True:
        try:
            return await offload(work, *args, **kwargs)
        except Unavailable:
            if not await pauses.another():
                raise
