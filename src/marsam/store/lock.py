"""One Marsam per folder store: a lock that dies with its holder."""

import errno
import fcntl
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from marsam.core.errors import Precondition
from marsam.store.staging import failure

LOCK = ".lock"


class FolderLock:
    """Holds `root` for this process from `acquire()` (or `with`) to `release()` or death; no child inherits it."""

    def __init__(self, root: Path, *, purpose: str = "marsam up") -> None:
        self._path = root / LOCK
        self._purpose = purpose
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock at once. Raises Precondition (STORE_IN_USE) that names the holder's process id otherwise."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise failure(error, f"the lock {self._path}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 4096, 0)
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise self._taken(holder) from error
            raise failure(error, f"the lock {self._path}") from error
        note = {"pid": os.getpid(), "purpose": self._purpose, "since": datetime.now(UTC).isoformat(timespec="seconds")}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(note).encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the folder back; harmless when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _taken(self, note: bytes) -> Precondition:
        try:
            holder = json.loads(note)
            who = f"'{holder['purpose']}', process {holder['pid']}, since {holder['since']}"
        except (ValueError, KeyError, TypeError):
            who = "another process"
        return Precondition(
            f"{self._path.parent} is in use by {who}",
            reason="STORE_IN_USE",
            remedy="stop that process, or give this one another folder",
        )

    def __enter__(self) -> "FolderLock":
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
