"""What OpenAI's clients read: errors, pictures, and the events of a stream."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from marsam.core.errors import Invalid, MarsamError
from marsam_generator.rest.asking import param

_TYPES: Mapping[str, str] = {
    "UNAUTHENTICATED": "authentication_error",
    "PERMISSION_DENIED": "permission_error",
    "NOT_FOUND": "not_found_error",
    "RESOURCE_EXHAUSTED": "rate_limit_error",
    "UNAVAILABLE": "server_error",
    "DEADLINE_EXCEEDED": "server_error",
    "DATA_LOSS": "server_error",
    "INTERNAL": "server_error",
}
_NO_TOKENS = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}
"""Nothing is counted in tokens here; clients expect the numbers all the same."""


def error_body(error: MarsamError) -> Mapping[str, Any]:
    """OpenAI's error object; what ours says beyond it stands under `marsam`."""
    violations = error.violations if isinstance(error, Invalid) else ()
    field = error.field or (violations[0].field if violations else None)
    return {
        "error": {
            "message": str(error),
            "type": _TYPES.get(error.code, "invalid_request_error"),
            # What was found wrong with the body itself bears the body's names.
            "param": field if not field or error.reason.startswith("PARAMETER_") else param(field),
            "code": error.reason,
            "marsam": {
                "message": error.message,
                "remedy": error.remedy,
                "resource": error.resource,
                "violations": [{"field": one.field, "message": one.message} for one in violations],
            },
        }
    }


def plain(message: Message) -> dict[str, Any]:
    """A message as JSON says it, defaults included, 64-bit numbers as numbers where a browser can hold them."""
    said = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return {name: _numbers(name, value) for name, value in said.items()}


_LONG = frozenset({"seed", "size_bytes", "uses"})


def _numbers(name: str, value: Any) -> Any:
    """Proto's JSON writes 64-bit numbers as texts; all of ours fit a double."""
    if isinstance(value, dict):
        return {key: _numbers(key, inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(name, inner) for inner in value]
    return int(value) if name in _LONG and isinstance(value, str) else value


def event(kind: str, fields: Mapping[str, Any]) -> bytes:
    """One server-sent event; its type stands in it too, as OpenAI's do."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields}, ensure_ascii=False)}\n\n".encode()


def look_event(data: bytes, number: int, *, created: int, size: str, quality: str, more: Mapping[str, Any]) -> bytes:
    """A picture on its way: small, and JPEG whatever the end will be."""
    fields = {
        "b64_json": base64.b64encode(data).decode(),
        "background": "opaque",
        "created_at": created,
        "output_format": "jpeg",
        "partial_image_index": number,
        "quality": quality,
        "size": size,
        "marsam": more,
    }
    return event("image_generation.partial_image", fields)


def picture_event(
    data: bytes, *, created: int, size: str, quality: str, output_format: str, more: Mapping[str, Any]
) -> bytes:
    """A picture that is done."""
    fields = {
        "b64_json": base64.b64encode(data).decode(),
        "background": "opaque",
        "created_at": created,
        "output_format": output_format,
        "quality": quality,
        "size": size,
        "usage": _NO_TOKENS,
        "marsam": more,
    }
    return event("image_generation.completed", fields)
