"""The words by which captions name the values of attributes: what lets a caption be compared with what is declared.

A folder may bring it as `vocabulary.json`: {attribute: {value: {language: [phrase, …]}}}.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from marsam.core.errors import Invalid
from marsam_dataset import foreign_json
from marsam_dataset.captions.forms import matching_key
from marsam_dataset.captions.language import primary

_UNSPEAKABLE = frozenset({"", "none", "true", "false", "yes", "no", "other", "unknown", "n a"})
_CLITICS = ("وال", "بال", "فال", "كال", "ولل", "ال", "لل", "و", "ب", "ل", "ف", "ك")
"""Arabic particles that are written joined to the word that follows."""
_ANY = ""

Phrases = Mapping[str, Mapping[str, Mapping[str, tuple[str, ...]]]]


@dataclass(frozen=True, kw_only=True)
class Mention:
    """A phrase found in a caption and the (attribute, value) pairs that it may name."""

    phrase: str
    names: frozenset[tuple[str, str]]


class Vocabulary:
    """Finds the attribute values that a caption names. Phrases are compared by matching key, longest first.

    `authored` tells a vocabulary that somebody wrote from one that was derived, which is less to be trusted.
    """

    def __init__(self, phrases: Phrases, *, authored: bool = True) -> None:
        self.authored = authored
        self.attributes = frozenset(phrases)
        self._names: dict[str, dict[tuple[str, ...], set[tuple[str, str]]]] = {}
        for attribute, values in phrases.items():
            for value, languages in values.items():
                for language, texts in languages.items():
                    for text in texts:
                        words = tuple(matching_key(text).split())
                        if words:
                            table = self._names.setdefault(primary(language) if language else _ANY, {})
                            table.setdefault(words, set()).add((attribute, value))

    @classmethod
    def parse(cls, data: bytes) -> "Vocabulary":
        """Read `vocabulary.json`. Raises Invalid naming the place that is wrong."""
        return cls(parse_phrases(data))

    def mentions(self, text: str, language: str) -> Iterator[Mention]:
        """Yield the phrases of `text`, left to right, none inside another."""
        tables = [t for t in (self._names.get(primary(language)), self._names.get(_ANY)) if t]
        if not tables:
            return
        longest = max(len(words) for table in tables for words in table)
        words = matching_key(text).split()
        at = 0
        while at < len(words):
            for length in range(min(longest, len(words) - at), 0, -1):
                named = _named(tables, words[at : at + length])
                if named:
                    yield Mention(phrase=" ".join(words[at : at + length]), names=named)
                    at += length
                    break
            else:
                at += 1


def of_values(items: Iterable[Mapping[str, str]]) -> Vocabulary:
    """Return the vocabulary that declared values make by themselves: 'hard_hat' is named by 'hard hat'.

    For sets that bring no vocabulary. A value says nothing about captions when it is a number, a yes or a no.
    """
    phrases: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {}
    for attributes in items:
        for attribute, value in attributes.items():
            text = matching_key(value.replace("_", " "))
            if text not in _UNSPEAKABLE and not text.replace(" ", "").isdigit():
                phrases.setdefault(attribute, {})[value] = {_ANY: (text,)}
    return Vocabulary(phrases, authored=False)


def parse_phrases(data: bytes) -> Phrases:
    """Return the content of a `vocabulary.json`, checked. Raises Invalid (VOCABULARY_INVALID)."""
    try:
        raw = foreign_json.read(data)
    except ValueError as error:
        raise _invalid(f"not JSON: {error}") from error
    table: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {}
    for attribute, values in _object(raw, "the file"):
        for value, languages in _object(values, attribute):
            for language, texts in _object(languages, f"{attribute}.{value}"):
                place = f"{attribute}.{value}.{language}"
                if isinstance(texts, str):
                    texts = [texts]
                if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
                    raise _invalid(f"{place} must be a list of texts")
                table.setdefault(attribute, {}).setdefault(value, {})[language] = tuple(texts)
    return table


def _object(value: object, place: str) -> list[tuple[str, object]]:
    if not isinstance(value, dict):
        raise _invalid(f"{place} must be an object")
    return list(value.items())


def _invalid(message: str) -> Invalid:
    return Invalid(
        f"vocabulary.json: {message}",
        reason="VOCABULARY_INVALID",
        remedy='write {"place": {"field": {"en": ["in a field"], "ar": ["في حقل"]}}}',
    )


def _named(
    tables: Sequence[Mapping[tuple[str, ...], set[tuple[str, str]]]], words: list[str]
) -> frozenset[tuple[str, str]]:
    """What the words name, as they are written if that is anything, else without joined particles."""
    for spelling in _spellings(words):
        named = frozenset(name for table in tables for name in table.get(spelling, ()))
        if named:
            return named
    return frozenset()


def _spellings(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The words as written, then with an Arabic particle taken off the first and the article off the others."""
    first, rest = words[0], tuple(words[1:])
    bare = tuple(word.removeprefix("ال") for word in rest)
    stripped = [first.removeprefix(c) for c in _CLITICS if first.startswith(c) and len(first) > len(c) + 1]
    for start in (first, *stripped):
        yield (start, *rest)
        if bare != rest:
            yield (start, *bare)
