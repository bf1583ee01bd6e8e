"""The folder that `marsam up` keeps its things in, and the lock that lets only one live there.

store/  cache/  logs/<service>.log  endpoints.json  lock  <service>.toml (yours, optional)
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marsam.client.endpoints import FILE
from marsam.core.errors import Exhausted, Precondition

_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Home:
    """A folder, by an absolute path; `objects` is the URL of an object store elsewhere, say s3://bucket/prefix."""

    root: Path
    objects: str = ""

    @property
    def store(self) -> Path:
        """The folder of objects, unless they are kept elsewhere."""
        return self.root / "store"

    @property
    def store_url(self) -> str:
        """The object store, as services are told of it."""
        return self.objects or str(self.store)

    @property
    def cache(self) -> Path:
        """What can be fetched again."""
        return self.root / "cache"

    @property
    def endpoints(self) -> Path:
        """Where clients find the services."""
        return self.root / FILE

    def log(self, service: str) -> Path:
        """What a service said on standard error."""
        return self.root / "logs" / f"{service}.log"

    def config(self, service: str) -> Path:
        """A service's settings file, which need not exist."""
        return self.root / f"{service}.toml"

    def prepare(self) -> None:
        """Makes the folders. Raises Exhausted when it cannot."""
        try:
            for folder in (*(() if self.objects else (self.store,)), self.cache, self.root / "logs"):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(self.root, error) from error

    def lock(self, *, note: Callable[[str], None]) -> int:
        """Takes the lock; gives its descriptor, to be inherited by the services: it is free when the last one is gone.

        Raises Precondition when another `marsam up` lives here. After one that was killed, waits for its services.
        """
        try:
            descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _unusable(self.root, error) from error
        deadline = time.monotonic() + _PATIENCE_SECONDS
        said = False
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    owner = os.pread(descriptor, 32, 0).decode().strip()
                    if _alive(owner) or time.monotonic() > deadline:
                        raise self._taken(owner) from None
                    if not said:
                        note(f"process {owner} was killed; waiting for its services to stop")
                        said = True
                    time.sleep(0.2)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def write_endpoints(self, services: Mapping[str, Mapping[str, Any]]) -> None:
        """Writes the file that clients read, at once or not at all."""
        aside = self.endpoints.with_suffix(".tmp")
        try:
            aside.write_text(json.dumps({"pid": os.getpid(), **services}, indent=2) + "\n", encoding="utf-8")
            aside.replace(self.endpoints)
        except OSError as error:
            raise _unusable(self.root, error) from error

    def _taken(self, owner: str) -> Precondition:
        return Precondition(
            f"Marsam is up on {self.root} already" + (f" (process {owner})" if owner else ""),
            reason="ALREADY_UP",
            field="--store",
            remedy="use that one, stop it with Ctrl-C in its terminal, or name another folder with --store",
        )


def _unusable(root: Path, error: OSError) -> Exhausted:
    return Exhausted(
        f"cannot use {root}: {error.strerror}",
        reason="HOME_NOT_WRITABLE",
        field="--store",
        remedy="name a folder that you may write to, on a disk with room",
    )


def _alive(owner: str) -> bool:
    if not owner.isdecimal():
        return True  # it has the lock and has not yet written its number
    try:
        os.kill(int(owner), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
