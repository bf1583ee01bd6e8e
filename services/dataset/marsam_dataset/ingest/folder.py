"""Which of the received files are pictures, and what the files beside them say."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from marsam.catalog.datasets import Caption, Finding, Rights
from marsam.catalog.imports import Received
from marsam.core.errors import Invalid
from marsam_dataset.captions.forms import matching_key, stored_form, unbalanced_bidi
from marsam_dataset.captions.language import guess
from marsam_dataset.ingest import masks, sidecars
from marsam_dataset.ingest.sidecars import Problem, Record
from marsam_dataset.vocabulary import Vocabulary

METADATA, RIGHTS, VOCABULARY = "metadata.jsonl", "rights.json", "vocabulary.json"
_TEXT = ".txt"
_ABOUT = ("readme", "license", "licence", "copying", "datasheet", "croissant")
_SPLITS = {"train": "train", "training": "train", "validation": "validation", "val": "validation", "test": "test"}
LONGEST_CAPTION = 4096


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file to decode, with everything that is declared about it, and the file that masks it."""

    path: str
    digest: str
    size: int
    captions: tuple[Caption, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    rights: Rights = field(default_factory=Rights)
    split: str = "train"
    findings: tuple[Finding, ...] = ()
    mask: Received | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an import will do: decode `entries`; report `problems`; remember the vocabulary blob, if one came.

    `beside` are the files that are no pictures and were read, or passed over, without a problem.
    """

    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...]
    beside: tuple[str, ...] = ()
    vocabulary: str = ""


def sidecar(path: str) -> bool:
    """Say whether the file at `path` describes pictures, so that its bytes are needed for planning."""
    name = PurePosixPath(path).name.lower()
    return name in (METADATA, RIGHTS, VOCABULARY) or (name.endswith(_TEXT) and not name.startswith(_ABOUT))


def _ignored(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return any(part.startswith((".", "__MACOSX")) for part in parts) or parts[-1].lower().startswith(_ABOUT)


def plan(received: Sequence[Received], texts: Mapping[str, bytes], *, default_rights: Rights) -> Plan:
    """Bring together pictures and what is said of them. `texts` holds the bytes of every accepted sidecar."""
    problems = [Problem(path=r.path, reason=r.reason, message=r.message) for r in received if r.reason]
    accepted = [r for r in received if not r.reason and not _ignored(r.path)]
    pictures, masked, more = masks.sort({r.path: r for r in accepted if not sidecar(r.path)})
    problems += more
    records, more = _records(texts, pictures)
    problems += more
    default, by_file, more = _rights(texts)
    problems += more
    vocabulary = ""
    for file in accepted:
        if PurePosixPath(file.path).name.lower() == VOCABULARY:
            try:
                Vocabulary.parse(texts[file.path])
                vocabulary = file.digest
            except Invalid as error:
                problems.append(Problem(path=file.path, reason=error.reason, message=error.message))
    entries = tuple(
        _entry(file, records.get(path, []), by_file.get(path) or default or default_rights, masked.get(path))
        for path, file in sorted(pictures.items())
    )
    settled = pictures.keys() | {file.path for file in masked.values()} | {problem.path for problem in problems}
    beside = tuple(r.path for r in received if r.path not in settled)
    return Plan(entries=entries, problems=tuple(problems), beside=beside, vocabulary=vocabulary)


def _records(
    texts: Mapping[str, bytes], pictures: Mapping[str, Received]
) -> tuple[dict[str, list[Record]], list[Problem]]:
    records: dict[str, list[Record]] = {}
    problems: list[Problem] = []
    for path in sorted(texts):
        name = PurePosixPath(path).name.lower()
        if name == METADATA:
            for one in sidecars.metadata(path, texts[path]):
                if isinstance(one, Problem):
                    problems.append(one)
                elif one.picture not in pictures:
                    message = f"{one.place} describes it, but no such file was sent."
                    problems.append(Problem(path=one.picture, reason="FILE_MISSING", message=message))
                elif one.picture in records:
                    message = f"'{one.picture}' was described before; the first line counts."
                    problems.append(Problem(path=one.place, reason="DESCRIBED_TWICE", message=message))
                else:
                    records[one.picture] = [one.record]
    by_stem = {str(PurePosixPath(path).with_suffix("")): path for path in pictures}
    for path in sorted(texts):
        if path.lower().endswith(_TEXT):
            found = _caption_file(path, texts[path], by_stem)
            if isinstance(found, Problem):
                problems.append(found)
            else:
                records.setdefault(found[0], []).append(found[1])
    return records, problems


def _caption_file(path: str, data: bytes, by_stem: Mapping[str, str]) -> tuple[str, Record] | Problem:
    """`cat.txt` and `cat.ar.txt` describe `cat.png`: all their lines are one caption."""
    stem = path[: -len(_TEXT)]
    picture, language = by_stem.get(stem), ""
    if picture is None:
        shorter, _, language = stem.rpartition(".")
        picture = by_stem.get(shorter)
    if picture is None:
        return Problem(path=path, reason="CAPTION_WITHOUT_PICTURE", message="No picture of this name was sent.")
    try:
        text = sidecars.text_of(data)
    except sidecars.Unusable as error:
        return Problem(path=path, reason=error.reason, message=error.message)
    return picture, Record(captions=((language or guess(text), text),))


def _rights(texts: Mapping[str, bytes]) -> tuple[Rights | None, dict[str, Rights], list[Problem]]:
    default: Rights | None = None
    by_file: dict[str, Rights] = {}
    problems: list[Problem] = []
    for path in sorted(texts):
        if PurePosixPath(path).name.lower() != RIGHTS:
            continue
        folder = PurePosixPath(path).parent
        try:
            stated, files = sidecars.rights_file(texts[path])
        except sidecars.Unusable as error:
            problems.append(Problem(path=path, reason=error.reason, message=error.message))
            continue
        default = stated or default
        by_file.update({str(folder / name): value for name, value in files.items()})
    return default, by_file, problems


def _entry(file: Received, records: Sequence[Record], rights: Rights, mask: Received | None) -> Entry:
    written = [caption for record in records for caption in record.captions]
    attributes = {name: value for record in reversed(records) for name, value in record.attributes.items()}
    first = PurePosixPath(file.path).parts[0].lower()
    declared = next((record.split for record in records if record.split), "")
    return Entry(
        path=file.path,
        digest=file.digest,
        size=file.size,
        captions=tuple(_stored(written)),
        attributes=attributes,
        rights=next((record.rights for record in records if record.rights), rights),
        split=_SPLITS.get(declared, declared) or _SPLITS.get(first, "train"),
        findings=tuple(_cleaned(written)),
        mask=mask,
    )


def _stored(written: Sequence[tuple[str, str]]) -> Iterator[Caption]:
    seen: set[tuple[str, str]] = set()
    for language, text in written:
        caption = Caption(
            language=language.strip().replace("_", "-") or "und", text=stored_form(text)[:LONGEST_CAPTION]
        )
        key = (caption.language, matching_key(caption.text) or caption.text)
        if caption.text and key not in seen:
            seen.add(key)
            yield caption


def _cleaned(written: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    for language, text in written:
        if unbalanced_bidi(text):
            message = f"The '{language}' caption held unbalanced direction marks, which were removed: read it again."
            yield Finding(check="caption", severity="warn", reason="CAPTION_BIDI", message=message)
        if len(text) > LONGEST_CAPTION:
            message = f"The '{language}' caption was cut to {LONGEST_CAPTION} characters."
            yield Finding(check="caption", severity="warn", reason="CAPTION_CUT", message=message)
