"""Lists, whole."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import grpc.aio

from marsam.client.connection import unary
from marsam.core.errors import Internal

Request = TypeVar("Request")
Answer = TypeVar("Answer")
Element = TypeVar("Element")

PAGE = 200
"""Elements asked for at once: pages must stay far below gRPC's limit of 4 MiB, however long their texts are."""

_MOST_PAGES = 50_000


async def every(
    method: grpc.aio.UnaryUnaryMultiCallable[Request, Answer],
    request: Request,
    elements: Callable[[Answer], Iterable[Element]],
) -> Sequence[Element]:
    """The elements of all pages. An empty token is the only end mark; an empty page is not."""
    found: list[Element] = []
    paged: Any = request  # every List request has a page_token, every answer a next_page_token: the API's convention
    for _ in range(_MOST_PAGES):
        answer: Any = await unary(method, request)
        found.extend(elements(answer))
        if not answer.next_page_token:
            return found
        paged.page_token = answer.next_page_token
    raise Internal(f"the service sent more than {_MOST_PAGES} pages")
