"""Who calls, and may they: bearer tokens against a file of their hashes; scopes from the protos; projects by names."""

import contextvars
import re
from collections.abc import Callable, Iterator, Mapping

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from marsam.core.errors import Denied, Missing, Unauthenticated
from marsam.core.tokens import Principal, hash_of
from marsam.rpc.server.pipeline import Call
from marsam.rpc.wire.metadata import AUTHORIZATION
from marsam.rpc.wire.scopes import describe, scope_of
from marsam.telemetry.logs import bind

_PROJECT = re.compile(r"projects/([^/]+)(/.*)?", re.DOTALL)
# Names sit in the request or in one message of it; deeper is content.
_DEPTH = 2

LOCAL = Principal(name="local")
_current: contextvars.ContextVar[Principal] = contextvars.ContextVar("marsam_principal", default=LOCAL)


def current_principal() -> Principal:
    """Who made the call that this task serves."""
    return _current.get()


class Auth:
    """A guard. Without tokens every caller is `local` (the settings allow that on loopback only).

    `tokens` is asked at every call, so that a token file may change while the service serves.
    """

    def __init__(self, tokens: Callable[[], Mapping[str, Principal]] | None) -> None:
        self._tokens = tokens

    def admit(self, call: Call) -> None:
        """Raises Unauthenticated or Denied."""
        if not call.infrastructure:
            self.identify(call.metadata.get(AUTHORIZATION, ""), lambda: scope_of(describe(call.method)))

    def identify(self, authorization: str, scope: Callable[[], str]) -> None:
        """Makes the holder of the header's token the principal of this task; it must hold `scope`.

        Raises Unauthenticated or Denied.
        """
        if self._tokens is None:
            return
        kind, _, token = authorization.partition(" ")
        if kind.lower() != "bearer" or not token:
            raise Unauthenticated(
                "this service needs a token",
                reason="TOKEN_MISSING",
                remedy="set MARSAM_TOKEN or MARSAM_TOKEN_FILE (on the wire: 'authorization: Bearer <token>')",
            )
        principal = self._tokens().get(hash_of(token))
        if principal is None:
            raise Unauthenticated(
                "this service does not know the token",
                reason="TOKEN_UNKNOWN",
                remedy="look for a missing character or a token of another installation; the operator makes one with"
                " 'marsam tokens new'",
            )
        bind(principal=principal.name)
        needed = scope()
        if not principal.may(needed):
            raise Denied(
                f"'{principal.name}' lacks the scope '{needed}'",
                reason="SCOPE_LACKING",
                remedy="ask the operator for a token that holds it",
            )
        _current.set(principal)

    def inspect(self, call: Call, request: Message) -> None:
        """Raises Missing when the request names a project the caller may not see: it must not learn that it exists."""
        if not call.infrastructure:
            refuse_unseen(request)

    @property
    def open(self) -> bool:
        """Whether everyone who reaches the service may call it."""
        return self._tokens is None


def refuse_unseen(request: Message) -> None:
    """Raises Missing when the request names a project that the principal of this task may not see."""
    principal = current_principal()
    for name in _names(request, _DEPTH):
        found = _PROJECT.fullmatch(name)
        if found and not principal.sees(found.group(1)):
            raise Missing(f"'{name}' was not found", resource=name)


def _names(message: Message, depth: int) -> Iterator[str]:
    for field, value in message.ListFields():
        values = value if field.is_repeated else (value,)
        if field.type == FieldDescriptor.TYPE_STRING:
            yield from values
        elif field.type == FieldDescriptor.TYPE_MESSAGE and depth > 1 and not _is_map(field):
            for inner in values:
                yield from _names(inner, depth - 1)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
