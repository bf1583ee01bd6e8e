"""Messages as plain JSON values: what `--json` prints.

Unlike protobuf's own JSON, whole numbers stay numbers, enums lose their prefix (`RUNNING`), and every field is present,
so that `jq` needs no guards.
"""

import base64
from typing import Any

from google.protobuf import json_format, struct_pb2, timestamp_pb2
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message


def plain(message: Message) -> Any:
    """Dicts, lists and scalars. Unset messages and unset optional fields are null."""
    if isinstance(message, timestamp_pb2.Timestamp):
        return message.ToJsonString() if message.ByteSize() else None
    if isinstance(message, struct_pb2.Struct):
        return json_format.MessageToDict(message)
    return {field.name: _value(message, field) for field in message.DESCRIPTOR.fields}


def _value(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        element = field.message_type.fields_by_name["value"]
        return {str(key): _scalar(value[key], element) for key in sorted(value)}
    if field.is_repeated:
        return [_scalar(element, field) for element in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _scalar(value, field)


def _scalar(value: Any, field: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return plain(value)
    if field.type == FieldDescriptor.TYPE_ENUM and field.enum_type is not None:
        return enum_word(field.enum_type, value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value


def enum_word(enum: EnumDescriptor, number: int) -> str:
    """`JOB_STATE_RUNNING` → `RUNNING`; the number for a value newer than this program; "" for UNSPECIFIED."""
    if number not in enum.values_by_number:
        return str(number)
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    word = enum.values_by_number[number].name.removeprefix(prefix)
    return "" if word == "UNSPECIFIED" else word
