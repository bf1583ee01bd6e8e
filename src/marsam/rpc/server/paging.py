"""Pages of a list (AIP-158), bounded by count and by bytes.

A token is the last id shown and a mark of the question it belongs to: what appears or goes meanwhile shifts nothing.
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message

from marsam.core.errors import Invalid
from marsam.core.ids import sha256_hex

DEFAULT_SIZE, LARGEST_SIZE = 50, 1000
LARGEST_BYTES = 900_000
"""Of the messages of a page: every answer stays under 1 MiB."""

E = TypeVar("E")
M = TypeVar("M", bound=Message)
P = TypeVar("P", bound=Message | str)


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a list call asks for: how many, after which id ('' from the beginning), and the mark of its question."""

    size: int
    last: str
    mark: str

    def cut(self, ids: Sequence[str], *, descending: bool = False) -> tuple[list[str], str]:
        """This page of `ids`, which are put in order, and the next page's token, '' at the end."""
        ordered = sorted(ids, reverse=descending)
        after = [id_ for id_ in ordered if not self.last or (id_ < self.last if descending else id_ > self.last)]
        shown = after[: self.size]
        return shown, self._token(shown[-1]) if len(after) > len(shown) else ""

    def fit(
        self, messages: Sequence[M], ids: Sequence[str], token: str, *, limit: int = LARGEST_BYTES
    ) -> tuple[Sequence[M], str]:
        """As many of the page's `messages`, one for each of `ids`, as `limit` bytes hold, at least one; and the next
        token: `token` when all fit.
        """
        fitting = leading(messages, limit=limit) or messages[:1]
        return fitting, token if len(fitting) == len(messages) else self._token(ids[len(fitting) - 1])

    def of(self, elements: Sequence[E], say: Callable[[E], M], *, ids: Sequence[str] = ()) -> tuple[Sequence[M], str]:
        """This page of a whole list as messages, and the next page's token.

        `ids` has one for each element, and orders them. Without it an element is known by its place: for lists that
        never change, or only grow at their end.
        """
        known = ids or [f"{place:09d}" for place in range(len(elements))]
        by_id = dict(zip(known, elements, strict=True))
        shown, token = self.cut(known)
        return self.fit([say(by_id[id_]) for id_ in shown], shown, token)

    def _token(self, last: str) -> str:
        return base64.urlsafe_b64encode(f"{self.mark} {last}".encode()).decode()


def leading(parts: Sequence[P], *, limit: int = LARGEST_BYTES) -> Sequence[P]:
    """As many of the first `parts` of a message as `limit` bytes hold."""
    total = 0
    for number, part in enumerate(parts):
        total += len(part.encode()) if isinstance(part, str) else part.ByteSize()
        if total > limit:
            return parts[:number]
    return parts


def page(*, size: int, token: str, question: Sequence[str]) -> Page:
    """Read a list call's size and token. `question` is the method and its other arguments: a token of another one is
    refused.

    Size 0 means the default, above the largest the largest. Raises Invalid (PAGE_TOKEN).
    """
    mark = sha256_hex("\n".join(question).encode())[:12]
    return Page(size=min(size or DEFAULT_SIZE, LARGEST_SIZE), last=_parse(token, mark) if token else "", mark=mark)


def _parse(token: str, mark: str) -> str:
    try:
        found, _, last = base64.urlsafe_b64decode(token.encode()).decode().partition(" ")
    except (binascii.Error, UnicodeError) as error:
        raise _refused("is none that this service gave out") from error
    if found != mark or not last:
        raise _refused("belongs to another list")
    return last


def _refused(why: str) -> Invalid:
    return Invalid(
        f"the page token {why}", field="page_token", reason="PAGE_TOKEN", remedy="ask for the first page again"
    )
