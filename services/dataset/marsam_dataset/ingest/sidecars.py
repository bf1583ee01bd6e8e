"""What lies beside the pictures of a folder: captions, attributes, rights. Read strictly, refused by the line."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from marsam.catalog.datasets import Rights
from marsam_dataset import foreign_json
from marsam_dataset.captions.language import guess

LONGEST_LINE = 256 * 1024
"""Bytes: an item's manifest, which holds what its line says, must stay under the store's limit for a commit."""
LONGEST_RIGHT = 2000
_SPLIT = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_RIGHTS_KEYS = {
    "licence": "licence",
    "license": "licence",
    "holder": "holder",
    "source": "source",
    "consent": "consent",
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Something beside the pictures that could not be used; `path` may carry a line: 'metadata.jsonl:17'."""

    path: str
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a sidecar says of one picture. Captions are (language, text) as written."""

    captions: tuple[tuple[str, str], ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    rights: Rights | None = None
    split: str = ""


@dataclass(frozen=True, kw_only=True)
class Described:
    """A line of a `metadata.jsonl`: the picture it is about (from the folder's root), and where it stands."""

    picture: str
    place: str
    record: Record


class Unusable(Exception):
    """A record or file that cannot be used; the message is for a person."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def text_of(data: bytes) -> str:
    """Return the text of a sidecar. Raises Unusable when it is not UTF-8 (a BOM is accepted)."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unusable("TEXT_NOT_UTF8", f"Not UTF-8 (byte {error.start}): save it as UTF-8.") from error


def metadata(path: str, data: bytes) -> Iterator[Described | Problem]:
    """Yield what each line of a `metadata.jsonl` says, or what is wrong with it.

    File names in it are relative to the folder that it lies in.
    """
    folder = PurePosixPath(path).parent
    try:
        text = text_of(data)
    except Unusable as error:
        yield Problem(path=path, reason=error.reason, message=error.message)
        return
    # Not splitlines(): JSON texts may hold U+2028 and its kin as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            if len(line.encode()) > LONGEST_LINE:
                raise Unusable("METADATA_LINE", f"The line has more than {LONGEST_LINE:,} bytes.")
            raw = foreign_json.read(line)
            if not isinstance(raw, dict) or not isinstance(raw.get("file_name"), str):
                raise Unusable("METADATA_LINE", "The line needs a 'file_name'.")
            picture = str(folder / raw["file_name"])
            yield Described(picture=picture, place=f"{path}:{number}", record=_record(raw))
        except ValueError as error:
            message = f"The line is not JSON: {error}"
            yield Problem(path=f"{path}:{number}", reason="METADATA_LINE", message=message)
        except Unusable as error:
            yield Problem(path=f"{path}:{number}", reason=error.reason, message=error.message)


def rights_file(data: bytes) -> tuple[Rights | None, Mapping[str, Rights]]:
    """Return (default, by picture) of a `rights.json`. Raises Unusable.

    Either one rights object for all, or {"default": {…}, "files": {"path": {…}}}.
    """
    try:
        raw = foreign_json.read(text_of(data))
    except ValueError as error:
        raise Unusable("RIGHTS_INVALID", f"Not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise Unusable("RIGHTS_INVALID", "The file must hold an object.")
    if not {"default", "files"} & raw.keys():
        return rights(raw), {}
    files = raw.get("files", {})
    if not isinstance(files, dict):
        raise Unusable("RIGHTS_INVALID", "'files' must map paths to rights.")
    default = rights(raw["default"]) if "default" in raw else None
    return default, {path: rights(value) for path, value in files.items()}


def rights(raw: object) -> Rights:
    """Return rights from plain JSON; keys that say something else are left alone. Raises Unusable."""
    if not isinstance(raw, dict):
        raise Unusable("RIGHTS_INVALID", "Rights must be an object with licence, holder, source, consent.")
    found: dict[str, str] = {}
    for key, name in _RIGHTS_KEYS.items():
        if raw.get(key) is not None:
            if not isinstance(raw[key], str):
                raise Unusable("RIGHTS_INVALID", f"Rights: '{key}' must be a text.")
            if len(raw[key]) > LONGEST_RIGHT:
                raise Unusable("RIGHTS_INVALID", f"Rights: '{key}' has more than {LONGEST_RIGHT:,} characters.")
            found[name] = raw[key].strip()
    return Rights(**found)


def _record(raw: Mapping[str, Any]) -> Record:
    split = raw.get("split", "")
    if not isinstance(split, str) or (split and not _SPLIT.fullmatch(split)):
        raise Unusable("METADATA_LINE", "'split' must be a word such as train, validation or test.")
    return Record(
        captions=tuple(_captions(raw)),
        attributes=_attributes(raw.get("attributes", {})),
        rights=rights(raw["rights"]) if raw.get("rights") is not None else None,
        split=split,
    )


def _captions(raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    listed = raw.get("captions", [])
    if not isinstance(listed, list):
        raise Unusable("METADATA_LINE", "'captions' must be a list.")
    for one in listed:
        if isinstance(one, str):
            yield guess(one), one
        elif isinstance(one, dict) and isinstance(one.get("text"), str) and isinstance(one.get("language", ""), str):
            yield one.get("language") or guess(one["text"]), one["text"]
        else:
            raise Unusable("METADATA_LINE", "A caption must be a text, or an object with 'language' and 'text'.")
    for key, value in raw.items():
        if key == "text" or key.startswith("text_"):
            if not isinstance(value, str):
                raise Unusable("METADATA_LINE", f"'{key}' must be a text.")
            yield (key.removeprefix("text_") if key != "text" else guess(value)), value


def _attributes(raw: object) -> dict[str, str]:
    if not isinstance(raw, dict):
        raise Unusable("METADATA_LINE", "'attributes' must be an object.")
    found: dict[str, str] = {}
    for name, value in raw.items():
        if isinstance(value, bool):
            found[name] = "true" if value else "false"
        elif isinstance(value, str | int | float):
            found[name] = str(value)
        elif value is not None:
            raise Unusable("METADATA_LINE", f"The attribute '{name}' must be a text, a number or a yes/no.")
    return found
