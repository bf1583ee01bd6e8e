"""Pages of a list (AIP-158): a token is the last id shown and a mark of the question it belongs to."""

import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass

from marsam.core.errors import Invalid
from marsam.core.ids import sha256_hex

DEFAULT_SIZE = 50
LARGEST_SIZE = 1000


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a list call asks for: how many, after which id, and the mark of the question."""

    size: int
    last: str
    mark: str

    def token(self, last: str) -> str:
        """The token of the page that follows the id `last`."""
        return base64.urlsafe_b64encode(json.dumps([last, self.mark]).encode()).decode()

    def cut(self, ids: Sequence[str]) -> tuple[list[str], str]:
        """This page of `ids` (sorted ascending), and the next page's token, '' at the end."""
        rest = [i for i in ids if i > self.last]
        page = rest[: self.size]
        return page, self.token(page[-1]) if len(rest) > self.size else ""


def page(*, size: int, token: str, question: Sequence[str]) -> Page:
    """Read a list call's size and token. `question` holds its other arguments: a token of another one is refused.

    Size 0 means the default, above the largest the largest. Raises `Invalid` (PAGE_TOKEN).
    """
    mark = sha256_hex("\n".join(question).encode())[:12]
    return Page(size=min(size or DEFAULT_SIZE, LARGEST_SIZE), last=_parse(token, mark) if token else "", mark=mark)


def _parse(token: str, mark: str) -> str:
    try:
        last, found = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (ValueError, TypeError, binascii.Error) as error:
        raise _refused("is none that this service gave out") from error
    if found != mark or not isinstance(last, str):
        raise _refused("belongs to a list with other arguments")
    return last


def _refused(why: str) -> Invalid:
    return Invalid(
        f"the page token {why}", field="page_token", reason="PAGE_TOKEN", remedy="ask for the first page again"
    )
