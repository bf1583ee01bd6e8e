"""The suite: which prompts a model is asked, in which languages, and what a right picture shows.

`marsam.suite/1` is JSON. A released suite never changes: it is stored once under its name and version, and named by the
digest of its canonical bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from marsam.core import records
from marsam.core.errors import Corrupt, Invalid, Violation, unknown_name
from marsam.core.ids import check_slug, digest_of

Purpose = Literal["taught", "held_out", "bleed", "kept", "unrelated"]

# What each well-known group is for; a suite with other groups states `purpose` itself.
_PURPOSES: Mapping[str, Purpose] = {
    "tuned_roles": "taught",
    "unseen_roles": "held_out",
    "other_demonyms": "bleed",
    "asked_keffiyeh": "kept",
    "unrelated": "unrelated",
}

# Titles of the attributes of people at work; a suite may say its own in `attributes`.
_TITLES: Mapping[str, Mapping[str, str]] = {
    "place": {"en": "right place", "ar": "المكان الصحيح"},
    "garment": {"en": "right dress", "ar": "اللباس الصحيح"},
    "head_cover": {"en": "right head cover", "ar": "غطاء الرأس الصحيح"},
    "tool": {"en": "right tool", "ar": "الأداة الصحيحة"},
}

MAX_PICTURES = 20_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How every picture of the suite is generated; sizes in pixels."""

    steps: int
    guidance: float
    scheduler: str
    width: int
    height: int

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1000:
            raise Invalid(f"steps must be 1 to 1000, got {self.steps}", field="generation.steps")
        if not 0.0 <= self.guidance <= 100.0:
            raise Invalid(f"guidance must be 0 to 100, got {self.guidance}", field="generation.guidance")
        if min(self.width, self.height) < 8:
            raise Invalid("width and height must be at least 8 pixels", field="generation.width")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Prompts that answer one question about the tuned model.

    `phrase` continues "on …" in a sentence ("roles it was never tuned on"); the title stands in for it.
    """

    name: str
    title: Mapping[str, str]
    purpose: Purpose | None = None
    phrase: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_slug(self.name, field="groups.name")
        if not self.title:
            raise Invalid(f"group '{self.name}' needs a title", field="groups.title")
        if self.purpose is None and self.name not in _PURPOSES:
            raise Invalid(
                f"group '{self.name}' needs a purpose",
                field="groups.purpose",
                remedy="one of taught, held_out, bleed, kept, unrelated",
            )

    @property
    def asks(self) -> Purpose:
        """What the group is for."""
        return self.purpose or _PURPOSES[self.name]


@dataclass(frozen=True, kw_only=True)
class AttributeTitle:
    """What a report calls "this attribute is as asked"."""

    title: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One scene: its text in every language of the suite, the seeds, and what a right picture shows.

    `expect` maps an attribute to the values that are right, `forbid` to values that nobody asked for. An attribute in
    neither is not judged.
    """

    id: str
    group: str
    text: Mapping[str, str]
    seeds: tuple[int, ...]
    expect: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    forbid: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_slug(self.id, field="prompts.id")
        place = f"prompt '{self.id}'"
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise Invalid(f"{place} needs at least one seed, and each only once", field="prompts.seeds")
        if any(not 0 <= seed < 2**52 for seed in self.seeds):  # the generator's bound, with room for an offset
            raise Invalid(f"{place}: a seed lies between 0 and 2^52 - 1", field="prompts.seeds")
        if not self.expect and not self.forbid:
            raise Invalid(f"{place} expects and forbids nothing, so it cannot be judged", field="prompts.expect")
        for name, values in (*self.expect.items(), *self.forbid.items()):
            if not values:
                raise Invalid(f"{place} lists no value for '{name}'", field="prompts.expect")
        for name, values in self.expect.items():
            both = set(values) & set(self.forbid.get(name, ()))
            if both:
                raise Invalid(f"{place} both expects and forbids {name}:{min(both)}", field="prompts.forbid")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A whole suite. `languages` gives the order of the report's columns.

    `stereotype` names what `forbid` stands for and continues "pictures with …": "a keffiyeh that nobody asked for".
    """

    SCHEMA: ClassVar[str] = "marsam.suite/1"

    name: str
    version: str
    languages: tuple[str, ...]
    generation: Settings
    groups: tuple[Group, ...]
    prompts: tuple[Prompt, ...]
    title: Mapping[str, str] = field(default_factory=dict)
    stereotype: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, AttributeTitle] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_slug(self.name, field="name")
        check_slug(self.version, field="version")
        if not self.languages or len(set(self.languages)) != len(self.languages):
            raise Invalid("a suite needs at least one language, and each only once", field="languages")
        faults = [*self._prompt_faults(), *self._group_faults()]
        if faults:
            raise Invalid(f"the suite has {len(faults)} faults; the first: {faults[0].message}", violations=faults)
        if self.pictures > MAX_PICTURES:
            raise Invalid(f"the suite asks for {self.pictures} pictures a model; at most {MAX_PICTURES}")

    def _group_faults(self) -> list[Violation]:
        names = [group.name for group in self.groups]
        faults = [
            Violation(field="groups", message=f"group '{name}' stands twice", reason="DUPLICATE")
            for name in sorted({n for n in names if names.count(n) > 1})
        ]
        used = {prompt.group for prompt in self.prompts}
        faults += [
            Violation(field="groups", message=f"group '{name}' has no prompt", reason="EMPTY_GROUP")
            for name in names
            if name not in used
        ]
        return faults

    def _prompt_faults(self) -> list[Violation]:
        known = {group.name for group in self.groups}
        faults: list[Violation] = []
        seen: set[str] = set()
        for prompt in self.prompts:
            if prompt.id in seen:
                faults.append(Violation(field="prompts.id", message=f"prompt '{prompt.id}' twice", reason="DUPLICATE"))
            seen.add(prompt.id)
            if prompt.group not in known:
                error = unknown_name("group", prompt.group, known)
                faults.append(Violation(field="prompts.group", message=str(error), reason="UNKNOWN_GROUP"))
            lacking = [language for language in self.languages if not prompt.text.get(language, "").strip()]
            if lacking:
                message = f"prompt '{prompt.id}' has no text in {', '.join(lacking)}"
                faults.append(Violation(field="prompts.text", message=message, reason="LANGUAGE_MISSING"))
        return faults

    @property
    def pictures(self) -> int:
        """Pictures a model has to make."""
        return sum(len(prompt.seeds) for prompt in self.prompts) * len(self.languages)

    @property
    def judged(self) -> tuple[str, ...]:
        """The attributes that any prompt expects or forbids, in the order of a report: the same for equal suites."""
        found = {a for prompt in self.prompts for a in (*prompt.expect, *prompt.forbid)}
        first = [a for a in _TITLES if a in found]
        return tuple(dict.fromkeys([*first, *sorted(found)]))

    def group(self, name: str) -> Group:
        """Return the group called `name`; Invalid with the nearest names otherwise."""
        for group in self.groups:
            if group.name == name:
                return group
        raise unknown_name("group", name, [g.name for g in self.groups])

    def attribute_title(self, attribute: str) -> Mapping[str, str]:
        """What a report calls "`attribute` is as asked"."""
        if attribute in self.attributes:
            return self.attributes[attribute].title
        words = attribute.replace("_", " ")
        return _TITLES.get(attribute, {"en": f"right {words}", "ar": words})


def parse_suite(data: bytes) -> Suite:
    """Return the suite that JSON bytes describe; Invalid with the place of the fault otherwise."""
    try:
        return records.load(Suite, data, what="suite")
    except Corrupt as error:
        cause = error.__cause__
        violations = cause.violations if isinstance(cause, Invalid) else ()
        raise Invalid(
            error.message, reason="SUITE_INVALID", field="suite", remedy=error.remedy, violations=violations
        ) from error


def suite_bytes(suite: Suite) -> bytes:
    """Return the canonical bytes of a suite: equal suites have equal bytes."""
    return records.dump(suite)


def suite_digest(suite: Suite) -> str:
    """Return the digest that names a suite's content."""
    return digest_of(suite_bytes(suite))
