"""The model card of a base in one file: what it is made of, and under which licence. The card of what has the rest of
it is another base's, and is kept apart."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from marsam.diffusion import registry
from marsam.diffusion.onefile.facts import Held
from marsam_trainer import licences
from marsam_trainer.completing import APART, Rest
from marsam_trainer.import_orders import ImportOrder
from marsam_trainer.markdown import table, words
from marsam_trainer.uploads import Received
from marsam_trainer.weights import Header

CARD = "README.md"


@dataclass(frozen=True, kw_only=True)
class MadeOf:
    """What a card says: the `file` and what it holds, its `own` licence and that of the base, and the `rest`."""

    file: Received
    held: Held
    own: licences.Stated | None
    licence: str
    rest: Rest


def stated(order: ImportOrder, header: Header, name: str, about: Mapping[str, Path]) -> licences.Stated | None:
    """The licence of the file `name`: what the caller says, else what is said `about` it beside it, else what its own
    header says; None where nobody says one. Blocking.

    Raises Invalid (LICENCE_CONTRADICTED) where the first of these is freer than one that restricts.
    """
    beside, inside = licences.stated(about), licences.of_metadata(header.metadata, file=name)
    if beside is not None and licences.same(beside.licence, licences.UNSTATED):
        beside = None
    licence = order.licence
    for found in (beside, inside):
        licence = licences.of_folder(licence, found, field="header.licence")
    if not licence or licences.same(licence, licences.UNSTATED):
        return None
    by = "whoever imported it" if order.licence else (beside or inside or licences.Stated(licence="", file=name)).file
    return licences.Stated(licence=licence, file=by)


def write(made_of: MadeOf, own: Path | None, scratch: Path) -> Path:
    """Write the card below `scratch`; the same file and the same rest give the same bytes. `own` is the card that came
    beside the file, which follows. Blocking."""
    front, body = licences.divided(licences.read_text(own)) if own is not None else ({}, "")
    said = yaml.safe_dump(
        {**{name: value for name, value in front.items() if not str(name).startswith("license")},
         **licences.front(made_of.licence)},
        allow_unicode=True, sort_keys=False, width=1 << 20,
    )  # fmt: skip
    rest, held = made_of.rest, made_of.held
    parts = [
        f"---\n{said}---",
        f"# A base for {words(registry.family_facts(held.family).title)}, made of one file",
        "## What it is made of\n\n" + table([
            ("file", words(made_of.file.path)),
            ("file digest", f"`{made_of.file.digest}`"),
            ("parts from it", words(", ".join(held.parts))),
            ("the rest from", words(rest.name)),
            ("digest of that", f"`{rest.digest}`"),
        ]),
        "## Licence\n\n" + _licence(made_of),
        f"## What is said beside the file\n\n{body.strip()}" if body.strip() else "",
    ]  # fmt: skip
    scratch.mkdir(parents=True, exist_ok=True)
    file = scratch / CARD
    file.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    return file


def _licence(made_of: MadeOf) -> str:
    own, rest = made_of.own, made_of.rest
    text = "Nobody has said under which licence the file is."
    if own is not None:
        text = f"The file is under **{words(own.licence)}**: so says {words(own.file)}."
    if rest.licence is not None:
        text += f" What came from {words(rest.name)} is under **{words(rest.licence.licence)}**."
    if any(licences.is_about(path) for path in rest.files):
        text += f" The card and the licence that came with that are in `{APART}`: they say nothing of the file."
    return text
