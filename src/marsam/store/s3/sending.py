"""What is sent to S3: bytes that are hashed as the client reads them, so that a changed file is never completed."""

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from marsam.core.errors import Invalid
from marsam.store.staging import mismatch


@contextlib.contextmanager
def opened(source: bytes | Path) -> Iterator[tuple[BinaryIO, int]]:
    """Give (a stream of the bytes, their number). Raises Invalid (FILE_UNREADABLE)."""
    if isinstance(source, bytes):
        yield io.BytesIO(source), len(source)
        return
    try:
        file = open(source, "rb")  # noqa: SIM115  # the with below owns it; only opening may fail this way
    except OSError as error:
        raise Invalid(f"cannot read {source.name}: {error.strerror}", reason="FILE_UNREADABLE") from error
    with file:
        yield file, os.fstat(file.fileno()).st_size


class Outgoing:
    """Reads `size` bytes of `file`. With the last of them it raises Corrupt unless all had the digest `sha256`."""

    def __init__(self, file: BinaryIO, size: int, *, what: str, sha256: str | None) -> None:
        self._file = file
        self._left = size
        self._what = what
        self._sha256 = sha256
        self._digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes. Raises Corrupt (DIGEST_MISMATCH) when the file ends early or is another."""
        chunk = self._file.read(size)
        if self._sha256 is None:
            return chunk
        self._digest.update(chunk)
        self._left -= len(chunk)
        if (self._left <= 0 or not chunk) and self._digest.hexdigest() != self._sha256:
            raise mismatch(self._what, self._sha256, self._digest.hexdigest())
        return chunk
