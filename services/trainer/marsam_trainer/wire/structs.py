"""Plain data and google.protobuf.Struct."""

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format, struct_pb2


def plain_struct(struct: struct_pb2.Struct) -> dict[str, Any]:
    """A Struct as plain data. Unlike the library's own JSON form this lets NaN pass, for the checks to refuse it."""
    return {name: _plain_value(value) for name, value in struct.fields.items()}


def _plain_value(value: struct_pb2.Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return plain_struct(value.struct_value)
        case "list_value":
            return [_plain_value(entry) for entry in value.list_value.values]
        case "null_value" | None:
            return None
        case kind:
            return getattr(value, kind)


def struct_of(values: Mapping[str, Any]) -> struct_pb2.Struct:
    """Plain data as a Struct; numbers become doubles."""
    struct = struct_pb2.Struct()
    json_format.Parse(json.dumps(dict(values)), struct)
    return struct
