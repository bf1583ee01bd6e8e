"""A .proto file written back from its descriptor.

`buf/validate/validate.proto` reaches us as a descriptor inside protovalidate; other languages' tools want text. A test
compiles what is written here and compares the descriptors: nothing is lost but comments.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf import descriptor_pb2, text_format
from google.protobuf.message import Message

_TYPES = {
    number: name.removeprefix("TYPE_").lower() for name, number in descriptor_pb2.FieldDescriptorProto.Type.items()
}
_LABELS = {
    descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL: "optional ",
    descriptor_pb2.FieldDescriptorProto.LABEL_REQUIRED: "required ",
    descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED: "repeated ",
}


def proto_text(file: descriptor_pb2.FileDescriptorProto) -> str:
    """The text of a proto2 or proto3 file. Its options' extensions must be known to this process. Maps, groups and
    services do not occur in what this is for: ValueError names them."""
    return "\n".join(_file(file)) + "\n"


def _file(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    if file.syntax not in ("", "proto2", "proto3") or file.service:
        raise ValueError(f"{file.name}: syntax '{file.syntax}' or services are not written")
    yield f'syntax = "{file.syntax or "proto2"}";'
    yield f"package {file.package};"
    for number, name in enumerate(file.dependency):
        yield f'import {"public " if number in file.public_dependency else ""}"{name}";'
    yield from (f"option {option};" for option in _options(file.options))
    proto3 = file.syntax == "proto3"
    for enum in file.enum_type:
        yield from _enum(enum)
    for message in file.message_type:
        yield from _message(message, proto3=proto3)
    yield from _extensions(file.extension, proto3=proto3)


def _message(message: descriptor_pb2.DescriptorProto, *, proto3: bool) -> Iterator[str]:
    if message.options.map_entry:
        raise ValueError(f"{message.name}: maps are not written")
    yield f"message {message.name} {{"
    yield from (f"  option {option};" for option in _options(message.options))
    for enum in message.enum_type:
        yield from _enum(enum, indent="  ")
    for nested in message.nested_type:
        yield from ("  " + line for line in _message(nested, proto3=proto3))
    written = set()
    for field in message.field:
        if not _in_oneof(field):
            yield "  " + _field(field, bare=proto3 and not field.proto3_optional)
        elif field.oneof_index not in written:
            written.add(field.oneof_index)
            oneof = message.oneof_decl[field.oneof_index]
            yield f"  oneof {oneof.name} {{"
            yield from (f"    option {option};" for option in _options(oneof.options))
            members = (f for f in message.field if _in_oneof(f) and f.oneof_index == field.oneof_index)
            yield from ("    " + _field(member, bare=True) for member in members)
            yield "  }"
    for span in message.reserved_range:
        yield f"  reserved {span.start} to {span.end - 1};"
    for name in message.reserved_name:
        yield f'  reserved "{name}";'
    for extendable in message.extension_range:
        end = "max" if extendable.end == 2**29 else extendable.end - 1
        yield f"  extensions {extendable.start} to {end};"
    yield from ("  " + line for line in _extensions(message.extension, proto3=proto3))
    yield "}"


def _in_oneof(field: descriptor_pb2.FieldDescriptorProto) -> bool:
    return field.HasField("oneof_index") and not field.proto3_optional


def _extensions(fields: Iterable[descriptor_pb2.FieldDescriptorProto], *, proto3: bool) -> Iterator[str]:
    for field in fields:
        yield f"extend {field.extendee} {{"
        yield "  " + _field(field, bare=proto3 and not field.proto3_optional)
        yield "}"


def _field(field: descriptor_pb2.FieldDescriptorProto, *, bare: bool) -> str:
    """`bare`: no word before a singular field."""
    repeated = field.label == descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    label = "" if bare and not repeated else _LABELS[field.label]
    kind = field.type_name or _TYPES[field.type]
    extra = [f"default = {_default(field)}"] if field.HasField("default_value") else []
    brackets = ", ".join([*extra, *_options(field.options)])
    return f"{label}{kind} {field.name} = {field.number}{f' [{brackets}]' if brackets else ''};"


def _default(field: descriptor_pb2.FieldDescriptorProto) -> str:
    if field.type == descriptor_pb2.FieldDescriptorProto.TYPE_STRING:
        return f'"{field.default_value}"'
    return field.default_value


def _enum(enum: descriptor_pb2.EnumDescriptorProto, *, indent: str = "") -> Iterator[str]:
    yield f"{indent}enum {enum.name} {{"
    yield from (f"{indent}  option {option};" for option in _options(enum.options))
    for value in enum.value:
        brackets = ", ".join(_options(value.options))
        yield f"{indent}  {value.name} = {value.number}{f' [{brackets}]' if brackets else ''};"
    for span in enum.reserved_range:  # unlike a message's, its end is inside
        yield f"{indent}  reserved {span.start} to {span.end};"
    for name in enum.reserved_name:
        yield f'{indent}  reserved "{name}";'
    yield f"{indent}}}"


def _options(options: Any) -> Iterator[str]:
    """`name = value` of every option that is set; repeated ones once for each value."""
    for field, value in options.ListFields():
        name = f"(.{field.full_name})" if field.is_extension else field.name
        for one in value if field.is_repeated else [value]:
            yield f"{name} = {_value(field, one)}"


def _value(field: Any, value: Any) -> str:
    if isinstance(value, Message):
        return "{ " + text_format.MessageToString(value, as_one_line=True) + " }"
    if field.enum_type is not None:
        return str(field.enum_type.values_by_number[value].name)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)
