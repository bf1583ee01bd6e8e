"""Licences of bases: what a folder states, whether it restricts, and whether that was accepted. No legal advice: the
table only tells licences that a reader must have seen from those that ask for nothing unusual."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from marsam.catalog.acceptance import Acceptance
from marsam.core.errors import Invalid
from marsam_trainer.markdown import plain

FREE = frozenset({
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "0bsd", "cc0-1.0", "cc-by-3.0",
    "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "openmdw", "openmdw-1.0",
})  # fmt: skip
"""Licences that leave the use of a model open, by their SPDX or hub ids."""

_UNSTATED = r"^unknown(-and-|$)"

RESTRICTED = (
    (r"non-?commercial|(^|-)nc(-|$)", "it forbids commercial use"),
    (r"research", "it allows research only"),
    (r"community|^gemma|^llama", "it binds use by terms of its own, such as a revenue limit or a use policy"),
    (r"rail", "it forbids some uses, and binds what is derived to the same rules"),
    (r"^deepfloyd-if", "it forbids commercial use"),
    (_UNSTATED, "nobody has said what it allows"),
)
"""Fragments of ids, and what they mean: `flux-1-dev-non-commercial-license`, `cc-by-nc-4.0`, `qwen-research`,
`stabilityai-ai-community`, `creativeml-openrail-m`, `openrail++`, …"""

_KNOWN_ELSEWHERE = frozenset({
    "openrail", "openrail++", "creativeml-openrail-m", "bigscience-openrail-m", "cc-by-nc-4.0", "cc-by-nc-sa-4.0",
    "cc-by-nc-nd-4.0", "gemma", "unknown",
})  # fmt: skip
"""Ids that a model hub knows, beside the free ones; any other is its `other` with a name."""

UNSTATED = "unknown"
"""What is recorded of a checkpoint in one file whose licence nobody states: like one that restricts it is to be
accepted, because what has the rest of the base says nothing of it."""

# First words of licence files, without white space and case, where a folder has no model card; most special first.
_TEXTS = (
    ("flux.1[dev]non-commerciallicense", "flux-1-dev-non-commercial-license"),
    ("flux[dev]non-commerciallicense", "flux-dev-non-commercial-license"),
    ("fluxnon-commerciallicense", "flux-non-commercial-license"),
    ("stabilityaicommunitylicense", "stabilityai-ai-community"),
    ("stabilityainon-commercialresearch", "stabilityai-nc-research-community"),
    ("qwenresearchlicense", "qwen-research"),
    ("openrail++-m", "openrail++"),
    ("openrail-m", "creativeml-openrail-m"),
    ("attribution-noncommercial", "cc-by-nc"),
    ("apachelicenseversion2.0", "apache-2.0"),
    ("mitlicense", "mit"),
)
_TEXT_SEEN = 4000
"""Characters of a licence file that are looked at: its title comes first."""

_CARD = "README.md"
_FILE = re.compile(r"(licen[cs]e|copying)[^/.]*(\.(md|txt))?", re.IGNORECASE)
_FRONT = re.compile(r"\A---\r?\n(.*?)\r?\n---(\r?\n|\Z)", re.DOTALL)
_ID_CHARACTERS = 256


class Terms(StrEnum):
    """What a licence asks."""

    FREE = "free"
    RESTRICTED = "restricted"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Stated:
    """A licence, and the file that states it."""

    licence: str
    file: str


def is_about(path: str) -> bool:
    """Whether a file at this path of a folder may say under which licence the rest is."""
    return path == _CARD or _FILE.fullmatch(path) is not None


def same(one: str, other: str) -> bool:
    """Whether two spellings name one licence."""
    return _normal(one) == _normal(other)


def terms(licence: str) -> Terms:
    """What the licence asks, by its id; of an SPDX expression, what its best choice asks."""
    choices = [[_terms(part) for part in re.split(r"\s+AND\s+", choice)] for choice in re.split(r"\s+OR\s+", licence)]
    order = (Terms.FREE, Terms.UNKNOWN, Terms.RESTRICTED)
    return min((max(parts, key=order.index) for parts in choices), key=order.index)


def restriction(licence: str) -> str:
    """In words, what the licence restricts; '' when it is not known to."""
    return next((words for pattern, words in RESTRICTED if re.search(pattern, _normal(licence))), "")


def stated(files: Mapping[str, Path], index: Mapping[str, Any] | None = None) -> Stated | None:
    """The licence that a folder states, in its model card, its index or a licence file; None when nowhere. Blocking."""
    card = files.get(_CARD)
    if card is not None and (licence := _of_card(read_text(card))):
        return Stated(licence=licence, file=_CARD)
    if index is not None and isinstance(said := index.get("license"), str) and said:
        return Stated(licence=said[:_ID_CHARACTERS], file="model_index.json")
    for path in sorted(path for path in files if _FILE.fullmatch(path)):
        known = _of_text(read_text(files[path])[:_TEXT_SEEN]) or f"other ({path})"
        return Stated(licence=known[:_ID_CHARACTERS], file=path)
    return None


def of_metadata(metadata: Mapping[str, str], *, file: str) -> Stated | None:
    """The licence that a safetensors file states in its header (`modelspec.license` of Stability's ModelSpec)."""
    said = metadata.get("modelspec.license", "").strip()
    if not said or same(said, UNSTATED):
        return None
    return Stated(licence=_of_text(said) or said[:_ID_CHARACTERS], file=file)


def front(licence: str) -> dict[str, str]:
    """The licence as the front matter of a model card has it."""
    known = next((one for one in FREE | _KNOWN_ELSEWHERE if same(one, licence)), None)
    return {"license": known} if known else {"license": "other", "license_name": plain(licence)}


def of_made(own: Stated | None, rest: Stated | None, *, field: str) -> str:
    """The licence of a base that is made of a file and of the rest of another: the file's `own`, `UNSTATED` where
    nobody says one. A restriction of the rest stays.

    Raises Invalid (LICENCE_CONTRADICTED) when its own is freer than a rest that restricts.
    """
    if own is not None:
        return _unless_freer(own.licence, rest, field=field)
    if rest is None or terms(rest.licence) is not Terms.RESTRICTED:
        return UNSTATED
    if _is_unstated(rest.licence):
        return rest.licence
    return f"{UNSTATED} AND {rest.licence}"[:_ID_CHARACTERS]


def of_folder(given: str, found: Stated | None, *, field: str) -> str:
    """The licence of a folder: what the caller says, else what the folder states.

    Raises Invalid (LICENCE_CONTRADICTED) when the caller names a freer one than a folder that states a restriction, or
    calls that one unknown. A folder that says "unknown" states none.
    """
    if given and found is not None and same(found.licence, UNSTATED):
        return given
    return _unless_freer(given, found, field=field)


def _unless_freer(given: str, found: Stated | None, *, field: str) -> str:
    if not given or found is None or same(given, found.licence):
        return given or (found.licence if found is not None else "")
    as_strict = terms(given) is Terms.RESTRICTED and not _is_unstated(given)
    if terms(found.licence) is Terms.RESTRICTED and not as_strict:
        raise Invalid(
            f"{found.file} states the licence {found.licence}, not {given}",
            field=field,
            reason="LICENCE_CONTRADICTED",
            remedy=f"name {found.licence}, or none",
        )
    return given


def accepted(
    licence: str, *, given: str, known: Acceptance | None, by: str, at: Callable[[], datetime], field: str
) -> Acceptance | None:
    """The acceptance under which `by` uses something of this licence; None when it needs none and none was given.

    `given` is the licence that the caller accepts now, `known` what was accepted before: that counts for whoever did.
    Raises Invalid (LICENCE_OTHER, LICENCE_NOT_ACCEPTED).
    """
    if given:
        if not same(given, licence):
            raise Invalid(
                f"'{given}' was accepted, and the licence is '{licence or 'not stated'}'",
                field=field,
                reason="LICENCE_OTHER",
                remedy=f"accept_licence: {licence}" if licence else "leave accept_licence empty",
            )
        return Acceptance(licence=licence, by=by, at=at())
    if known is not None and known.by == by and same(known.licence, licence):
        return known
    if terms(licence) is Terms.RESTRICTED:
        first = "read it"
        if _is_unstated(licence):
            first = "import it with the licence that its author gave it (--licence), or find out what that allows"
        raise Invalid(
            f"the licence {licence} restricts ({restriction(licence)}) and must be accepted",
            field=field,
            reason="LICENCE_NOT_ACCEPTED",
            remedy=f"{first}, then say accept_licence: {licence} (on the command line: --accept-licence '{licence}')",
        )
    return None


def read_text(path: Path) -> str:
    """A text as it is; a mark of byte order is none of it."""
    return path.read_text(encoding="utf-8-sig", errors="replace")


def _of_text(text: str) -> str:
    """The id of a licence by the title of its text; '' where none is known here."""
    text = "".join(text.split()).casefold().replace(",", "")
    return next((licence for words, licence in _TEXTS if words in text), "")


def divided(text: str) -> tuple[dict[str, Any], str]:
    """A model card's front matter, empty where there is none that can be read, and what comes after it."""
    match = _FRONT.match(text)
    if match is None:
        return {}, text
    try:
        front = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError, RecursionError):  # such as a date that is none
        front = None
    return (front if isinstance(front, dict) else {}), text[match.end() :]


def _of_card(text: str) -> str:
    """The licence of a model card's front matter: its name where the hub knows no id for it."""
    front, _ = divided(text)
    licence = front.get("license")
    licence = licence[0] if isinstance(licence, list) and licence else licence
    name = front.get("license_name")
    if isinstance(name, str) and name and licence in ("other", None):
        licence = name
    return licence.strip()[:_ID_CHARACTERS] if isinstance(licence, str) else ""


def _terms(licence: str) -> Terms:
    if restriction(licence):
        return Terms.RESTRICTED
    return Terms.FREE if _normal(licence) in FREE else Terms.UNKNOWN


def _is_unstated(licence: str) -> bool:
    """Whether it is `UNSTATED`, or that beside a restriction of something else."""
    return re.search(_UNSTATED, _normal(licence)) is not None


def _normal(licence: str) -> str:
    return re.sub(r"-licen[cs]e$", "", re.sub(r"[\s_]+", "-", licence.strip().casefold()))
