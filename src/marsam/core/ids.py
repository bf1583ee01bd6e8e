"""Identifiers: ULIDs, digests and user-chosen slugs, each with the one rule that says what is a valid one."""

import hashlib
import os
import re

from marsam.core.clock import Clock, SystemClock
from marsam.core.errors import Invalid

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_ULID = re.compile(r"[0-7][0-9a-hjkmnp-tv-z]{25}")
_SLUG = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


def new_ulid(clock: Clock | None = None) -> str:
    """Return 26 lower-case Crockford characters: 48 bits of milliseconds, 80 random bits. Text order is time order."""
    milliseconds = int((clock or SystemClock()).now().timestamp() * 1000)
    number = (milliseconds << 80) | int.from_bytes(os.urandom(10), "big")
    return "".join(_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5))


def is_ulid(text: str) -> bool:
    """Say whether `text` is a ULID as `new_ulid` spells them."""
    return _ULID.fullmatch(text) is not None


def check_ulid(text: str, *, field: str = "id") -> str:
    """Return `text` if it is a lower-case ULID; Invalid otherwise."""
    if not is_ulid(text):
        raise Invalid(f"{field} must be a ULID of 26 lower-case characters, got '{text[:80]}'", field=field)
    return text


def check_slug(text: str, *, field: str = "id") -> str:
    """Return `text` if it may name a user's thing: 1 to 63 of a-z 0-9 . _ -, alphanumeric at the ends; else Invalid."""
    if not _SLUG.fullmatch(text):
        raise Invalid(
            f"{field} must be 1 to 63 characters of a-z, 0-9, '.', '_' or '-', with a letter or digit at both ends,"
            f" got '{text[:80]}'",
            field=field,
            reason="NAME_NOT_ALLOWED",
        )
    return text


def check_sha256(text: str, *, field: str = "id") -> str:
    """Return `text` if it is the hexadecimal digits of a SHA-256; Invalid otherwise."""
    digest_hex(f"sha256:{text}", field=field)
    return text


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def digest_of(data: bytes) -> str:
    """Return the digest string of `data`: 'sha256:' and 64 hexadecimal digits."""
    return f"sha256:{sha256_hex(data)}"


def is_digest(text: str) -> bool:
    """Say whether `text` is a digest as `digest_of` spells them."""
    return _DIGEST.fullmatch(text) is not None


def digest_hex(digest: str, *, field: str = "digest") -> str:
    """Return the 64 hexadecimal digits inside a digest string; Invalid when it is not one."""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise Invalid(
            f"{field} must be 'sha256:' and 64 lower-case hexadecimal digits, got '{digest[:80]}'", field=field
        )
    return match.group(1)
