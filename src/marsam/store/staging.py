"""Bytes on their way onto a disk: written aside, hashed, fsynced, only then named. And what a disk's errors mean."""

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from marsam.core.errors import Corrupt, Denied, Exhausted, Invalid, MarsamError, Precondition, Unavailable

CHUNK = 1 << 20


def failure(error: OSError, what: str) -> MarsamError:
    """Return the stated error for what the operating system said about `what`."""
    text = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return Exhausted(f"no room to write {what}: {text}", reason="STORE_FULL",
                         remedy="free disk space (or raise the quota) and try again; nothing was written")  # fmt: skip
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Denied(f"may not touch {what}: {text}", reason="STORE_DENIED",
                      remedy="give this user read and write access to the store's folder")  # fmt: skip
    if error.errno in (errno.EISDIR, errno.ENOTDIR):
        return Precondition(f"{what}: a key cannot be an object and a folder at once", reason="KEY_LAYOUT")
    return Unavailable(f"cannot access {what}: {text}", reason="STORE_IO")


def mismatch(what: str, expected: str, found: str) -> Corrupt:
    """Return the error for bytes that are not the announced ones."""
    return Corrupt(f"{what}: expected sha256 {expected}, got {found}", reason="DIGEST_MISMATCH",
                   remedy="the copy is damaged or was changed on the way; send or import it again")  # fmt: skip


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def chunks(path: Path) -> Iterator[bytes]:
    """Yield a local file's bytes by the mebibyte; Invalid (FILE_UNREADABLE) when it cannot be opened."""
    try:
        file = open(path, "rb")  # noqa: SIM115  # the with below owns it; only opening may fail this way
    except OSError as error:
        raise Invalid(f"cannot read {path.name}: {error.strerror}", reason="FILE_UNREADABLE") from error
    with file:
        yield from iter(lambda: file.read(CHUNK), b"")


class Staging:
    """A new file in `folder`, under a name that nobody else uses, for bytes that will be called `what`."""

    def __init__(self, folder: Path, what: str) -> None:
        self.path = folder / f"{os.getpid()}-{secrets.token_hex(8)}"
        self.size = 0
        self._what = what
        self._digest = hashlib.sha256()
        try:
            self._file = open(self.path, "xb")  # noqa: SIM115  # closed by seal() or discard()
        except OSError as error:
            raise failure(error, what) from error

    def write(self, chunk: bytes) -> None:
        """Append `chunk`. Raises Exhausted when the disk is full."""
        self._digest.update(chunk)
        self.size += len(chunk)
        try:
            self._file.write(chunk)
        except OSError as error:
            raise failure(error, self._what) from error

    def seal(self) -> str:
        """Make the bytes durable and read-only; return their SHA-256 in hexadecimal."""
        try:
            self._file.flush()
            os.fchmod(self._file.fileno(), 0o444)
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise failure(error, self._what) from error
        return self._digest.hexdigest()

    def discard(self) -> None:
        """Drop the file's temporary name; bytes that were linked or renamed elsewhere stay there."""
        with contextlib.suppress(OSError):
            self._file.close()
        self.path.unlink(missing_ok=True)


def arrive(pieces: Iterable[bytes], into: Path, *, what: str, sha256: str, size: int) -> Path:
    """Make the local file `into` of the bytes of `what`; it appears only when they are the announced ones. Blocking."""
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise failure(error, into.name) from error
    staging = Staging(into.parent, f"{into.name} beside the store")
    try:
        for chunk in pieces:
            staging.write(chunk)
        found = staging.seal()
        if (found, staging.size) != (sha256, size):
            raise mismatch(what, f"{sha256} ({size} bytes)", f"{found} ({staging.size} bytes)")
        try:
            os.replace(staging.path, into)
            fsync_folder(into.parent)
        except OSError as error:
            raise failure(error, into.name) from error
    finally:
        staging.discard()
    return into
