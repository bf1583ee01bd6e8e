"""protovalidate in front of every handler: a request that breaks the rules of its .proto never reaches one."""

from typing import Any

import protovalidate
from google.protobuf.message import Message

from marsam.core.errors import Invalid, Violation
from marsam.rpc.server.pipeline import Call


class Validation:
    """A guard. All violations of a message come back at once, as BadRequest field violations."""

    def __init__(self) -> None:
        self._validator = protovalidate.Validator()

    def admit(self, call: Call) -> None:
        """Nothing to say before there is a message."""

    def inspect(self, call: Call, request: Message) -> None:
        """Raises Invalid with one violation per broken rule."""
        self.check(request)

    def check(self, message: Message) -> None:
        """The same for a message that came another way than by a call."""
        found = self._validator.collect_violations(message)
        if not found:
            return
        violations = [_violation(violation.proto) for violation in found]
        first = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        place = f"{first.field}: " if first.field else ""
        raise Invalid(f"{place}{first.message}{more}", reason="REQUEST_INVALID", violations=violations)


def _violation(proto: Any) -> Violation:
    # Rules about a whole message have no field path.
    elements = proto.field.elements if proto.field is not None else ()
    return Violation(
        field=".".join(element.field_name + _subscript(element) for element in elements),
        message=proto.message or proto.rule_id,
        reason=proto.rule_id.upper().replace(".", "_"),
    )


def _subscript(element: Any) -> str:
    """`[3]` or `[key]` for a place inside a repeated or map field."""
    return "" if element.subscript is None else f"[{element.subscript.value}]"
