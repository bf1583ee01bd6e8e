"""A file that is touched while the program turns: what a liveness probe looks at. It asks nothing of the training loop,
so a step that takes long does not look like death; a process that holds the interpreter for ever does.
"""

import threading
from pathlib import Path
from types import TracebackType

from marsam.telemetry.logs import Log

PERIOD_S = 5.0
_log = Log(__name__)


class Beat:
    """Touches `path` from a thread of its own for as long as it is entered; without a path it does nothing."""

    def __init__(self, path: Path | None, *, period_s: float = PERIOD_S) -> None:
        self._path = path
        self._period_s = period_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="run.beat", daemon=True)

    def __enter__(self) -> "Beat":
        if self._path is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._path is not None:
            self._thread.join(timeout=10.0)

    def _work(self) -> None:
        assert self._path is not None  # or the thread would not run
        while True:
            try:
                self._path.touch()
            except OSError as error:
                _log.warning("beat.failed", message=str(error))
            if self._ended.wait(self._period_s):
                return
