"""Bearer tokens: who holds one, and the file of their hashes that services read.

The file is JSON: {"tokens": [{"principal": "ci", "sha256": "<hex>", "scopes": ["runs.*"], "projects": ["default"]}]}.
`*` stands for everything, `runs.*` for every scope of runs. The token itself is in no file of ours.
"""

import contextlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marsam.core.errors import Invalid
from marsam.core.ids import check_slug, sha256_hex

PREFIX = "marsam_"
"""Every token begins with it, so that scanners for leaked secrets can know one."""

_FIELDS = ("principal", "sha256", "scopes", "projects")
_RANDOM_BYTES = 32
_SCOPE = re.compile(r"\*|[a-z]+\.(\*|[a-z]+)")


@dataclass(frozen=True, kw_only=True)
class Principal:
    """A caller, and what they may do where."""

    name: str
    scopes: frozenset[str] = frozenset({"*"})
    projects: frozenset[str] = frozenset({"*"})

    def __post_init__(self) -> None:
        if not self.name or len(self.name) > 128 or not self.name.isprintable():
            raise Invalid(f"a principal has 1 to 128 printable characters, got {self.name!r}", field="principal")
        for scope in self.scopes:
            if not _SCOPE.fullmatch(scope):
                raise Invalid(f"'{scope}' is no scope", field="scopes", remedy="such as 'runs.read', 'runs.*' or '*'")
        for project in self.projects - {"*"}:
            check_slug(project, field="projects")

    def may(self, scope: str) -> bool:
        """Whether the caller holds `scope`."""
        family = scope.partition(".")[0] + ".*"
        return not self.scopes.isdisjoint({"*", scope, family})

    def sees(self, project: str) -> bool:
        """Whether the caller's world contains `project`."""
        return "*" in self.projects or project in self.projects


def new_token() -> str:
    """A token that nobody else has: 256 random bits behind the prefix."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def hash_of(token: str) -> str:
    """What the file keeps of a token. It is random and long, so that one plain SHA-256 cannot be undone."""
    return sha256_hex(token.encode())


def entry_of(principal: Principal, token: str) -> dict[str, Any]:
    """The entry of the file under which `token` is `principal`'s."""
    return {
        "principal": principal.name,
        "sha256": hash_of(token),
        "scopes": sorted(principal.scopes),
        "projects": sorted(principal.projects),
    }


def read_tokens(path: Path) -> Mapping[str, Principal]:
    """Principals by the hash of their token. Raises Invalid that names the file and what is wrong in it."""
    found: dict[str, Principal] = {}
    for number, entry in enumerate(_entries(path), 1):
        try:
            digest, principal = _read_entry(entry)
            if digest in found:
                raise Invalid(f"its token is that of '{found[digest].name}' too")
        except Invalid as error:
            raise _bad(f"{path}: entry {number} is no token entry: {error.message}") from error
        found[digest] = principal
    return found


def add_token(path: Path, entry: Mapping[str, Any]) -> None:
    """Appends an entry to the file, which need not exist; readers see the old file or the new one.

    Raises Invalid when there is a file that is not a token file, or none can be written.
    """
    entries = [*(_entries(path) if path.exists() else ()), dict(entry)]
    text = json.dumps({"tokens": entries}, indent=2, ensure_ascii=False) + "\n"
    aside = None
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            aside = Path(file.name)
            file.write(text)
            os.fchmod(file.fileno(), mode)
        aside.replace(path)
    except OSError as error:
        if aside is not None:
            with contextlib.suppress(OSError):
                aside.unlink()
        raise _bad(f"cannot write {path}: {error.strerror}") from error


def _entries(path: Path) -> Sequence[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _bad(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise _bad(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict) or set(content) != {"tokens"} or not isinstance(content["tokens"], list):
        raise _bad(f"{path} is not a token file")
    return content["tokens"]


def _read_entry(entry: Any) -> tuple[str, Principal]:
    if not isinstance(entry, dict) or set(entry) != set(_FIELDS):
        raise Invalid(f"it must have {', '.join(_FIELDS)} and nothing else")
    for name in ("scopes", "projects"):
        if not isinstance(entry[name], list) or not all(isinstance(word, str) for word in entry[name]):
            raise Invalid(f"'{name}' must be a list of words")
    if not isinstance(entry["principal"], str):
        raise Invalid("'principal' must be a word")
    if not isinstance(entry["sha256"], str) or not re.fullmatch(r"[0-9a-f]{64}", entry["sha256"]):
        raise Invalid(f"'sha256' of '{entry['principal']}' is not 64 hexadecimal digits")
    principal = Principal(
        name=entry["principal"], scopes=frozenset(entry["scopes"]), projects=frozenset(entry["projects"])
    )
    return entry["sha256"], principal


def _bad(message: str) -> Invalid:
    return Invalid(
        message,
        field="token_file",
        reason="TOKEN_FILE_INVALID",
        remedy='expected {"tokens": [{"principal", "sha256", "scopes", "projects"}]}; marsam tokens new makes entries',
    )
