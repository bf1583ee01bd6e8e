"""Safetensors files made from pieces of others, byte for byte: no tensor is ever held as numbers."""

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from marsam_trainer.weights import Header, Tensor, read_header

_CHUNK = 8 << 20


@dataclass(frozen=True, kw_only=True)
class Made:
    """A tensor to write: what its entry says, and its bytes, read when it is written."""

    dtype: str
    shape: tuple[int, ...]
    size: int
    pieces: Callable[[], Iterator[bytes]]


class Stored:
    """The tensors of a safetensors file on disk."""

    def __init__(self, path: Path, *, name: str) -> None:
        self.path = path
        self.header: Header = read_header(path, name=name)
        with path.open("rb") as stream:
            self._begin = 8 + int.from_bytes(stream.read(8), "little")

    def whole(self, key: str) -> Made:
        """A tensor as it is."""
        tensor = self.header.tensors[key]
        return self._span(tensor, tensor.shape, 0, _size(tensor))

    def rows(self, key: str, first: int, count: int) -> Made:
        """`count` of a tensor's rows (of its first dimension)."""
        tensor = self.header.tensors[key]
        width = _size(tensor) // tensor.shape[0]
        return self._span(tensor, (count, *tensor.shape[1:]), first * width, (first + count) * width)

    def block(self, key: str, rows: tuple[int, int], columns: tuple[int, int]) -> Made:
        """The part of a matrix between two rows and two columns."""
        tensor = self.header.tensors[key]
        item = _size(tensor) // (tensor.shape[0] * tensor.shape[1])
        begin, end = (column * item for column in columns)
        chosen = self.rows(key, rows[0], rows[1] - rows[0])
        width = tensor.shape[1] * item

        def pieces() -> Iterator[bytes]:
            matrix = b"".join(chosen.pieces())
            for start in range(0, len(matrix), width):
                yield matrix[start + begin : start + end]

        shape = (rows[1] - rows[0], columns[1] - columns[0])
        return Made(dtype=tensor.dtype, shape=shape, size=shape[0] * (end - begin), pieces=pieces)

    def _span(self, tensor: Tensor, shape: tuple[int, ...], begin: int, end: int) -> Made:
        def pieces() -> Iterator[bytes]:
            with self.path.open("rb") as stream:
                stream.seek(self._begin + tensor.span[0] + begin)
                for start in range(begin, end, _CHUNK):
                    yield stream.read(min(_CHUNK, end - start))

        return Made(dtype=tensor.dtype, shape=shape, size=end - begin, pieces=pieces)


def number(value: float) -> Made:
    """A scalar, as fp32."""
    return Made(dtype="F32", shape=(), size=4, pieces=lambda: iter([struct.pack("<f", value)]))


def zeros(like: Made, shape: tuple[int, ...]) -> Made:
    """A matrix of zeros, of the type of another one."""
    size = like.size // prod(like.shape) * prod(shape)
    return Made(dtype=like.dtype, shape=shape, size=size, pieces=lambda: iter([bytes(size)]))


def is_zero(made: Made) -> bool:
    """Whether every byte is zero. Reads it."""
    return not any(any(piece) for piece in made.pieces())


def below(parts: Sequence[Made]) -> Made:
    """Matrices of one width, one below the other."""
    return Made(
        dtype=parts[0].dtype,
        shape=(sum(part.shape[0] for part in parts), parts[0].shape[1]),
        size=sum(part.size for part in parts),
        pieces=lambda: (piece for part in parts for piece in part.pieces()),
    )


def diagonal(parts: Sequence[Made]) -> Made:
    """Matrices as the blocks of a diagonal, zeros beside them."""
    every = sum(part.shape[1] for part in parts)
    item = parts[0].size // (parts[0].shape[0] * parts[0].shape[1])

    def pieces() -> Iterator[bytes]:
        before = 0
        for part in parts:
            width = part.shape[1]
            left, right = bytes(before * item), bytes((every - before - width) * item)
            matrix = b"".join(part.pieces())
            for start in range(0, len(matrix), width * item):
                yield left + matrix[start : start + width * item] + right
            before += width

    shape = (sum(part.shape[0] for part in parts), every)
    return Made(dtype=parts[0].dtype, shape=shape, size=shape[0] * shape[1] * item, pieces=pieces)


def write(into: Path, tensors: Mapping[str, Made], *, metadata: Mapping[str, str]) -> None:
    """Write a new safetensors file. Blocking."""
    entries: dict[str, object] = {"__metadata__": {**metadata, "format": "pt"}}
    at = 0
    for name, made in tensors.items():
        entries[name] = {"dtype": made.dtype, "shape": list(made.shape), "data_offsets": [at, at + made.size]}
        at += made.size
    raw = json.dumps(entries, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)  # the format aligns the buffer to 8 bytes
    with into.open("xb") as target:
        target.write(len(raw).to_bytes(8, "little") + raw)
        for made in tensors.values():
            for piece in made.pieces():
                target.write(piece)


def _size(tensor: Tensor) -> int:
    return tensor.span[1] - tensor.span[0]
