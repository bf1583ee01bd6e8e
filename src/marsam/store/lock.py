"""Locks among the processes of one machine. The kernel frees them when their holder ends, however it ends."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from marsam.store.staging import failure


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[bool]:
    """Try to take the lock of the file `path`, and hold it inside the block; gives whether it was free. Never waits.

    Programs started inside the block do not inherit it. Raises as the disk does: Exhausted, Denied, Unavailable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise failure(error, f"the lock {path}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            try:
                yield True
            finally:  # not by the close alone: a program on its way up may hold a copy until it has been loaded
                fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)
