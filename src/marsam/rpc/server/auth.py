"""Who calls, and may they: bearer tokens against a file of their hashes; scopes from the protos; projects from names.

The file is JSON: {"tokens": [{"principal": "ci", "sha256": "<hex>", "scopes": ["runs.*"], "projects": ["default"]}]}.
`*` stands for everything, `runs.*` for every scope of runs. The token itself is in no file of ours.
"""

import contextvars
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from marsam.api.common.v1 import common_pb2
from marsam.core.errors import Denied, Internal, Invalid, Missing, Unauthenticated
from marsam.rpc.server.pipeline import Call
from marsam.rpc.wire.metadata import AUTHORIZATION
from marsam.telemetry.logs import bind

_PROJECT = re.compile(r"projects/([^/]+)(/.*)?")
# Names sit in the request or in one message of it; deeper is content.
_DEPTH = 2


@dataclass(frozen=True, kw_only=True)
class Principal:
    """A caller, and what they may do where."""

    name: str
    scopes: frozenset[str] = frozenset({"*"})
    projects: frozenset[str] = frozenset({"*"})

    def may(self, scope: str) -> bool:
        """Whether the caller holds `scope`."""
        family = scope.partition(".")[0] + ".*"
        return not self.scopes.isdisjoint({"*", scope, family})

    def sees(self, project: str) -> bool:
        """Whether the caller's world contains `project`."""
        return "*" in self.projects or project in self.projects


LOCAL = Principal(name="local")
_current: contextvars.ContextVar[Principal] = contextvars.ContextVar("marsam_principal", default=LOCAL)


def current_principal() -> Principal:
    """Who made the call that this task serves."""
    return _current.get()


def scope_of(method: MethodDescriptor) -> str:
    """The scope a method declares; Internal when it declares none, which no service is started with."""
    # The generated stub types the extension by its descriptor, not as an extension of MethodOptions.
    scope: str = method.GetOptions().Extensions[common_pb2.scope]  # type: ignore[index]
    if not scope:
        raise Internal(f"{method.full_name} declares no scope", reason="SCOPE_MISSING")
    return scope


def describe(method: str) -> MethodDescriptor:
    """The descriptor of `/package.Service/Method`."""
    service, _, name = method.removeprefix("/").partition("/")
    return descriptor_pool.Default().FindServiceByName(service).methods_by_name[name]


def read_tokens(path: Path) -> Mapping[str, Principal]:
    """Principals by the SHA-256 of their token. Raises Invalid that names the file and what is wrong in it."""
    found: dict[str, Principal] = {}
    try:
        for entry in json.loads(path.read_text(encoding="utf-8"))["tokens"]:
            if not re.fullmatch(r"[0-9a-f]{64}", entry["sha256"]):
                raise ValueError(f"'sha256' of '{entry['principal']}' is not 64 hexadecimal digits")
            found[entry["sha256"]] = Principal(
                name=entry["principal"],
                scopes=frozenset(entry["scopes"]),
                projects=frozenset(entry["projects"]),
            )
    except OSError as error:
        raise _bad_token_file(f"cannot read {path}: {error.strerror}") from error
    except KeyError as error:
        raise _bad_token_file(f"{path} is not a token file: {error} is missing") from error
    except (ValueError, TypeError) as error:
        raise _bad_token_file(f"{path} is not a token file: {error}") from error
    return found


def _bad_token_file(message: str) -> Invalid:
    return Invalid(
        message,
        field="token_file",
        reason="TOKEN_FILE_INVALID",
        remedy='expected {"tokens": [{"principal", "sha256", "scopes", "projects"}]}',
    )


class Auth:
    """A guard. Without tokens every caller is `local` (the settings allow that on loopback only)."""

    def __init__(self, tokens: Mapping[str, Principal] | None) -> None:
        self._tokens = tokens

    def admit(self, call: Call) -> None:
        """Raises Unauthenticated or Denied."""
        if call.infrastructure or self._tokens is None:
            return
        kind, _, token = call.metadata.get(AUTHORIZATION, "").partition(" ")
        if kind.lower() != "bearer" or not token:
            raise Unauthenticated("this service needs a token", remedy="send 'authorization: Bearer <token>'")
        principal = self._tokens.get(hashlib.sha256(token.encode()).hexdigest())
        if principal is None:
            raise Unauthenticated("the token is not known", reason="TOKEN_UNKNOWN")
        bind(principal=principal.name)
        scope = scope_of(describe(call.method))
        if not principal.may(scope):
            raise Denied(
                f"'{principal.name}' lacks the scope '{scope}'",
                reason="SCOPE_LACKING",
                remedy="ask the operator for a token that holds it",
            )
        _current.set(principal)

    def inspect(self, call: Call, request: Message) -> None:
        """Raises Missing when the request names a project the caller may not see: it must not learn that it exists."""
        if call.infrastructure or self._tokens is None:
            return
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
