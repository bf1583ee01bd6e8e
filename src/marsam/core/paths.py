"""Paths that come from outside: relative, downward, portable, or refused."""

from pathlib import PurePosixPath

from marsam.core.errors import Invalid


def check_relative(path: str, *, field: str = "path") -> PurePosixPath:
    """Return `path` if it stays inside whatever folder it is laid into; Invalid otherwise.

    Refused: empty, absolute, '.' or '..' or empty segments, backslashes, colons, control characters, over 512 bytes.
    """
    segments = path.split("/")
    bad = (
        not path
        or len(path.encode()) > 512
        or any(s in ("", ".", "..") or len(s.encode()) > 255 for s in segments)
        or any(c in "\\:" or ord(c) < 32 or ord(c) == 127 for c in path)
    )
    if bad:
        raise Invalid(f"{field} must be a plain relative path, got '{path[:80]!r}'", field=field, reason="PATH_UNSAFE")
    return PurePosixPath(path)
