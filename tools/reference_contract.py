"""The reference page of the contract, from the comments in `proto/`.

A descriptor names an element by a path of field numbers and indices; comments are kept by that path.
The numbers are those of `descriptor.proto`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)

HEAD = """# Contract

Package `entitlement.v1`, files in `proto/entitlement_sidecar/wire/v1/`.
Every process also serves `grpc.health.v1.Health` and server reflection.
Written by `make generate` from the comments in those files.
"""

_MESSAGES, _ENUMS, _SERVICES, _MEMBERS = 4, 5, 6, 2

_SCALARS = {number: name.removeprefix("TYPE_").lower() for name, number in FieldDescriptorProto.Type.items()}


class Documented(NamedTuple):
    """An element of the contract and its comment, which is empty where there is none."""

    name: str
    comment: str


class Comments:
    """The comments of one file by element path."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._by_path = {
            tuple(place.path): " ".join(place.leading_comments.split())
            for place in file.source_code_info.location
        }

    def at(self, *path: int) -> str:
        """The comment above an element, in one line; empty where there is none."""
        return self._by_path.get(path, "")


def elements(description: bytes) -> Iterator[Documented]:
    """Every service, RPC, message, field, enum and value of the contract, with its comment."""
    for file in FileDescriptorSet.FromString(description).file:
        comments = Comments(file)
        for service_at, service in enumerate(file.service):
            names = [method.name for method in service.method]
            yield from _owner(comments, (_SERVICES, service_at), service.name, names)
        for message_at, message in enumerate(file.message_type):
            names = [field.name for field in message.field]
            yield from _owner(comments, (_MESSAGES, message_at), message.name, names)
        for enum_at, enum in enumerate(file.enum_type):
            names = [value.name for value in enum.value]
            yield from _owner(comments, (_ENUMS, enum_at), enum.name, names)


def _owner(comments: Comments, path: tuple[int, int], name: str, members: list[str]) -> Iterator[Documented]:
    yield Documented(name, comments.at(*path))
    for place, member in enumerate(members):
        # Services keep their methods, messages their fields, enums their values at number 2.
        yield Documented(f"{name}.{member}", comments.at(*path, _MEMBERS, place))


def render(description: bytes) -> str:
    """The whole page: services first, then the messages and enums that they use."""
    files = FileDescriptorSet.FromString(description).file
    # Frames are the bytes of other messages, and nobody's contract.
    noted = [(file, Comments(file)) for file in files if not file.name.endswith("/frames.proto")]
    parts = [HEAD]
    for file, comments in noted:
        parts += [_service(comments, index, item) for index, item in enumerate(file.service)]
    for file, comments in noted:
        parts += [_message(comments, index, item) for index, item in enumerate(file.message_type)]
    for file, comments in noted:
        parts += [_enum(comments, index, item) for index, item in enumerate(file.enum_type)]
    return "\n".join(parts)


def _service(comments: Comments, index: int, service: ServiceDescriptorProto) -> str:
    rows = [
        f"| `{method.name}` | {_stream(method.client_streaming)}`{_short(method.input_type)}` "
        f"| {_stream(method.server_streaming)}`{_short(method.output_type)}` "
        f"| {comments.at(_SERVICES, index, _MEMBERS, place)} |"
        for place, method in enumerate(service.method)
    ]
    table = _table(["RPC", "request", "response", "meaning"], rows)
    return f"## {service.name}\n\n{comments.at(_SERVICES, index)}\n\n{table}"


def _message(comments: Comments, index: int, message: DescriptorProto) -> str:
    rows = [
        f"| {field.number} | `{field.name}` | {_type(field, message)} "
        f"| {comments.at(_MESSAGES, index, _MEMBERS, place)} |"
        for place, field in enumerate(message.field)
    ]
    table = _table(["number", "field", "type", "meaning"], rows)
    return f"## {message.name}\n\n{comments.at(_MESSAGES, index)}\n\n{table}"


def _enum(comments: Comments, index: int, enum: EnumDescriptorProto) -> str:
    rows = [
        f"| {value.number} | `{value.name}` | {comments.at(_ENUMS, index, _MEMBERS, place)} |"
        for place, value in enumerate(enum.value)
    ]
    return f"## {enum.name}\n\n{comments.at(_ENUMS, index)}\n\n{_table(['number', 'value', 'meaning'], rows)}"


def _type(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    nested = {item.name: item for item in message.nested_type}
    entry = nested.get(_short(field.type_name))
    if entry is not None and entry.options.map_entry:
        key, value = entry.field
        return f"map of {_scalar(key)} to {_scalar(value)}"
    prefix = "repeated " if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
    return ("optional " if field.proto3_optional else prefix) + _scalar(field)


def _scalar(field: FieldDescriptorProto) -> str:
    return f"`{_short(field.type_name)}`" if field.type_name else _SCALARS[field.type]


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def _stream(streams: bool) -> str:  # noqa: FBT001 - a flag of the descriptor
    return "stream of " if streams else ""


def _table(columns: list[str], rows: list[str]) -> str:
    if not rows:
        return ""
    head = f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n"
    return head + "\n".join(rows) + "\n"
