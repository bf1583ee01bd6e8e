"""Pages of a list (AIP-158)."""

import base64
import binascii
from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.message import Message

from marsam.core.errors import Invalid

DEFAULT_SIZE, LARGEST_SIZE = 50, 1000
LARGEST_BYTES = 900_000
"""Of the messages of a page: every answer stays under 1 MiB."""

M = TypeVar("M", bound=Message)


def page(ids: Sequence[str], *, size: int, token: str, parent: str) -> tuple[list[str], str]:
    """Return up to `size` of the ascending `ids` after the place that `token` marks, and the token of the next page.

    0 is the default size, too large a size is the largest; '' is the first page and the end. Raises Invalid
    (PAGE_TOKEN) for a token of another parent.
    """
    after = _parse(token, parent) if token else ""
    rest = [id_ for id_ in ids if id_ > after]
    shown = rest[: min(size or DEFAULT_SIZE, LARGEST_SIZE)]
    return shown, _format(shown[-1], parent) if len(rest) > len(shown) else ""


def fit(
    messages: Sequence[M], ids: Sequence[str], token: str, *, parent: str, limit: int = LARGEST_BYTES
) -> tuple[Sequence[M], str]:
    """Return as many of the page's `messages` as `limit` bytes hold, at least one, and the token of the next page."""
    total = 0
    for number, message in enumerate(messages):
        total += message.ByteSize()
        if total > limit and number:
            return messages[:number], _format(ids[number - 1], parent)
    return messages, token


def _format(last: str, parent: str) -> str:
    return base64.urlsafe_b64encode(f"{parent} {last}".encode()).decode()


def _parse(token: str, parent: str) -> str:
    try:
        found, _, last = base64.urlsafe_b64decode(token.encode()).decode().partition(" ")
    except (binascii.Error, UnicodeError) as error:
        raise _refused("is none that this service gave out") from error
    if found != parent or not last:
        raise _refused("belongs to another list")
    return last


def _refused(why: str) -> Invalid:
    return Invalid(
        f"the page token {why}", field="page_token", reason="PAGE_TOKEN", remedy="ask for the first page again"
    )
