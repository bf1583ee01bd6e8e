"""What a model file is, decided by its first bytes and its structure, never by its name.

Only three kinds are ever stored: safetensors, JSON and UTF-8 text. A pickle runs code when it is opened, so it is
refused with the command that converts it. The safetensors header is read here with the standard library: this process
must not import torch, and needs no tensor.
Format: https://github.com/huggingface/safetensors (8 bytes little-endian header length, JSON header, packed buffer).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import prod
from pathlib import Path, PurePosixPath

from marsam.core.errors import Invalid

HEADER_LIMIT = 100 * 1000 * 1000
"""The format's own limit for the JSON header, in bytes."""
TEXT_LIMIT = 64 * 1024 * 1024
"""Tokenizers are the largest text of a model; a real one is below 40 MiB."""

_DTYPE_BITS = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16,
    "U16": 16, "I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip

_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})

_FOREIGN = (
    (b"GGUF", "a GGUF file", "import the safetensors the GGUF file was made from"),
    (b"\x89HDF", "an HDF5 (Keras) file", "export it as safetensors first"),
    (b"\x1f\x8b", "a gzip archive", "unpack it and send the files it holds"),
    (b"\x7fELF", "a program", "send the model's own files only"),
)

CONVERT = (
    "convert it where you trust its author: python -c 'import sys, torch; from safetensors.torch import save_file; "
    'd = torch.load(sys.argv[1], map_location="cpu", weights_only=True); d = d.get("state_dict", d); '
    'save_file({k: v.contiguous() for k, v in d.items() if hasattr(v, "shape")}, sys.argv[2])\' IN OUT.safetensors'
)


class Content(StrEnum):
    """The kinds of file that a model may consist of."""

    SAFETENSORS = "safetensors"
    JSON = "json"
    TEXT = "text"


MEDIA_TYPES: Mapping[Content, str] = {
    Content.SAFETENSORS: "application/vnd.safetensors",
    Content.JSON: "application/json",
    Content.TEXT: "text/plain; charset=utf-8",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensor:
    """One entry of a safetensors header: its dtype as spelled there, its shape, and where in the buffer its bytes begin
    and end."""

    dtype: str
    shape: tuple[int, ...]
    span: tuple[int, int] = field(default=(0, 0), compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """A checked safetensors header: tensors by name, and the free metadata."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)


def inspect(path: Path, *, name: str) -> Content:
    """Say what the file at `path` is; `name` is its name inside the model.

    Raises `Invalid` (PICKLE_REFUSED, FILE_NOT_ALLOWED, FILE_BROKEN) for whatever a model may not hold.
    """
    suffix = PurePosixPath(name).suffix.lower()
    with path.open("rb") as stream:
        head = stream.read(512)
    _refuse_pickle(head, name=name, suffix=suffix)
    for magic, what, remedy in _FOREIGN:
        if head.startswith(magic):
            raise Invalid(f"{name} is {what}", field="files", reason="FILE_NOT_ALLOWED", remedy=remedy)
    if suffix == ".safetensors":
        read_header(path, name=name)
        return Content.SAFETENSORS
    return _text(path, name=name, suffix=suffix)


def read_header(path: Path, *, name: str) -> Header:
    """Read a safetensors header and check it: sizes add up, tensors do not overlap, nothing is missing at the end.

    Raises `Invalid` (FILE_BROKEN).
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = header_length(stream.read(8), size=size, name=name)
        raw = stream.read(length)
    return parse_header(raw, size=size, name=name)


def header_length(prefix: bytes, *, size: int, name: str) -> int:
    """Bytes of the JSON header of a file of `size` bytes that begins with `prefix`. Raises `Invalid` (FILE_BROKEN)."""
    length = int.from_bytes(prefix[:8], "little")
    if len(prefix) < 8 or not 2 <= length <= min(HEADER_LIMIT, size - 8):
        raise _broken(name, "its first 8 bytes are not the length of a header")
    return length


def parse_header(raw: bytes, *, size: int, name: str) -> Header:
    """As `read_header`, from the JSON bytes of the header and the size of the whole file."""
    try:
        entries = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _broken(name, "its header is not JSON") from error
    if not isinstance(entries, dict):
        raise _broken(name, "its header is not a JSON object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _broken(name, "its metadata is not a map of texts")
    tensors: dict[str, Tensor] = {}
    for key, entry in entries.items():
        tensors[key] = _entry(key, entry, name=name)
    end = 0
    for start, stop in sorted(tensor.span for tensor in tensors.values()):
        if start != end:
            raise _broken(name, "its tensors overlap or leave a hole")
        end = stop
    if end != size - 8 - len(raw):
        raise _broken(name, f"it should hold {end} bytes of tensors and holds {size - 8 - len(raw)}")
    return Header(tensors=tensors, metadata=metadata)


def _entry(key: str, entry: object, *, name: str) -> Tensor:
    if not isinstance(entry, dict):
        raise _broken(name, f"its entry {key!r} is malformed")
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        bits = _DTYPE_BITS[dtype]
        counts = [*shape, start, stop]
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(name, f"its entry {key!r} is malformed") from error
    if not all(type(number) is int and number >= 0 for number in counts):
        raise _broken(name, f"its entry {key!r} is malformed")
    if (stop - start) * 8 != prod(shape) * bits:
        raise _broken(name, f"the bytes of {key!r} do not fit its shape")
    return Tensor(dtype=dtype, shape=tuple(shape), span=(start, stop))


def _refuse_pickle(head: bytes, *, name: str, suffix: str) -> None:
    what = None
    if head.startswith(b"PK\x03\x04"):
        what = "a zip archive, as torch.save writes it"
    elif head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and not _plausible_header(head):
        what = "a pickle"
    elif head[257:262] == b"ustar":
        what = "a tar archive, as old versions of torch wrote it"
    elif suffix in _PICKLE_SUFFIXES:
        what = f"named {suffix}, which other tools open as a pickle"
    if what is not None:
        raise Invalid(
            f"{name} is {what}: opening a pickle runs whatever code it holds, so Marsam stores safetensors only",
            field="files",
            reason="PICKLE_REFUSED",
            remedy=CONVERT,
        )


def _plausible_header(head: bytes) -> bool:
    """A safetensors header of length 0x…0280 begins like a pickle; the brace after the length tells them apart."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= HEADER_LIMIT


def _text(path: Path, *, name: str, suffix: str) -> Content:
    size = path.stat().st_size
    if size > TEXT_LIMIT:
        raise Invalid(
            f"{name} has {size} bytes and is not safetensors",
            field="files",
            reason="FILE_NOT_ALLOWED",
            remedy="a model consists of .safetensors weights and small .json and .txt files",
        )
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unknown(name) from error
    if "\0" in text:
        raise _unknown(name)
    if suffix != ".json":
        return Content.TEXT
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Invalid(
            f"{name} is not JSON: {error}", field="files", reason="FILE_BROKEN", remedy="send the file again"
        ) from error
    return Content.JSON


def _unknown(name: str) -> Invalid:
    return Invalid(
        f"{name} is neither safetensors nor JSON nor UTF-8 text",
        field="files",
        reason="FILE_NOT_ALLOWED",
        remedy="send only .safetensors, .json and .txt files",
    )


def _broken(name: str, why: str) -> Invalid:
    return Invalid(
        f"{name} is not a whole safetensors file: {why}",
        field="files",
        reason="FILE_BROKEN",
        remedy="it was cut short or changed on the way; fetch it again and compare its sha256",
    )
