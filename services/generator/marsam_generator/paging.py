"""Pages of a list of names (AIP-158): a token is the last name shown and the parent that it belongs to."""

import base64
import binascii
import json
from collections.abc import Sequence

from marsam.core.errors import Invalid

DEFAULT_SIZE, LARGEST_SIZE = 50, 1000


def page(names: Sequence[str], *, size: int, token: str, parent: str) -> tuple[Sequence[str], str]:
    """One page of `names` (newest first: descending) and the token of the next, '' at the end.

    `size` 0 means the default; above the largest means the largest. What appears meanwhile does not shift a page.
    Raises `Invalid` (PAGE_TOKEN) for a token of another list.
    """
    if token:
        last = _last(token, parent)
        names = [name for name in names if name < last]
    count = min(size or DEFAULT_SIZE, LARGEST_SIZE)
    more = len(names) > count
    shown = names[:count]
    return shown, base64.urlsafe_b64encode(json.dumps([parent, shown[-1]]).encode()).decode() if more else ""


def _last(token: str, parent: str) -> str:
    try:
        of, last = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (ValueError, TypeError, binascii.Error):
        of, last = None, None
    if of != parent or not isinstance(last, str):
        raise Invalid(
            "the page token belongs to another list",
            field="page_token",
            reason="PAGE_TOKEN",
            remedy="ask for the first page again",
        )
    return last
