"""The run program as it is, but that it waits before its third step until the file `go` is in its cache: so a test's
outage comes in mid-run however fast the machine is.
"""

import sys
import time

from marsam_trainer.run import __main__ as program
from marsam_trainer.run import train
from marsam_trainer.run.loop import Loop

HELD = 2
GO = "go"


class HeldLoop(Loop):
    """A loop with a wait in it."""

    def step(self) -> float:
        """See `Loop.step`."""
        deadline = time.monotonic() + 300
        while self.position.step == HELD and not go.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return super().step()


if __name__ == "__main__":
    go = program.arguments(sys.argv[1:]).cache / GO
    train.Loop = HeldLoop  # type: ignore[misc, attr-defined]
    sys.exit(program.main())
