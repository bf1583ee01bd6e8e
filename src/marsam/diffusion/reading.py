"""How well a base's tokenizers read captions, by language, and what is to be said of it. Imports no torch.

Decided by what a tokenizer does with the captions, never by the family's name: a language is refused when no encoder
that reaches the attention layers reads it. A tokenizer that splits is necessary, not sufficient: it says that the
words arrive, not that the encoder has learnt what they mean.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from marsam.core.errors import Violation
from marsam.diffusion.spec import BaseFacts, FamilyFacts
from marsam.diffusion.text import plain

UNKNOWN = 0.1
"""A language of which a tokenizer does not know more than this share of the words is not read. (T5 knows no Arabic word
at all; a few foreign names or emoji in captions that are read stay below.)"""

LOST = 0.5
"""A language of which more than this share of the tokens lies beyond what the base takes of a caption is not read."""

SPLIT = 4.0
"""Tokens per word from which on a tokenizer spells rather than reads, which is told. (CLIP: English 1.1, Arabic 5.0;
Qwen: Arabic 2.5.)"""

# Scripts that put no space between words: each letter counts as a word, so that a sentence is not one.
_LONE = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORDS = re.compile(rf"[{_LONE}]|[^\s{_LONE}]+")
_SPACE = re.compile(r"\s+")


class Tokenizer(Protocol):
    """What is asked of a tokenizer; those of transformers are such."""

    unk_token_id: int | None
    model_max_length: int

    def __call__(self, text: list[str], **options: Any) -> Mapping[str, list[list[int]]]: ...

    def batch_decode(self, sequences: Any, **options: Any) -> list[str]: ...

    def num_special_tokens_to_add(self, pair: bool = ...) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How one tokenizer reads the captions of one language. Shares are in [0, 1].

    `unknown` is the share of words that it does not know or drops, `lost` the share of tokens beyond the `usable` ones
    of a caption, `cut` the share of captions that have such, `round_trip` the share of captions that decode to what
    they were, but for case and white space. `attends` says whether its encoder reaches the attention layers.
    """

    language: str
    tokenizer: str
    captions: int
    words: int
    tokens_per_word: float
    unknown: float
    lost: float
    cut: float
    round_trip: float
    usable: int
    attends: bool = True

    @property
    def reads(self) -> bool:
        """Whether enough of the captions arrives."""
        return self.unknown <= UNKNOWN and self.lost <= LOST


def usable(tokenizer: Tokenizer, text_length: int, *, preamble: str = "") -> int:
    """Tokens of a caption's own that fit into `text_length` behind `preamble`. A tokenizer without a limit says
    10^30."""
    before = sum(map(len, _codes(tokenizer, [preamble] if preamble else [])))
    return max(1, min(text_length, int(tokenizer.model_max_length)) - tokenizer.num_special_tokens_to_add() - before)


def read(
    tokenizer: Tokenizer, captions: Sequence[str], *, language: str, name: str, usable: int, attends: bool = True
) -> Reading:
    """Measure. Captions go through `plain` as in training; those without a word are left out."""
    counted = Counter(text for text in map(plain, captions) if text)
    texts = list(counted)
    words: Counter[str] = Counter()
    for text, count in counted.items():
        for word in _WORDS.findall(text):
            words[word] += count
    coded = _codes(tokenizer, texts)
    back = tokenizer.batch_decode(coded) if coded else []
    unknown = _unknown(tokenizer, list(words))
    every, spoken = counted.total(), words.total()
    tokens = sum(len(ids) * counted[text] for text, ids in zip(texts, coded, strict=True))
    beyond = {text: max(0, len(ids) - usable) for text, ids in zip(texts, coded, strict=True)}
    return Reading(
        language=language,
        tokenizer=name,
        captions=every,
        words=spoken,
        tokens_per_word=tokens / spoken if spoken else 0.0,
        unknown=_share(sum(words[word] for word in unknown), spoken),
        lost=_share(sum(over * counted[text] for text, over in beyond.items()), tokens),
        cut=_share(sum(counted[text] for text, over in beyond.items() if over), every),
        round_trip=_share(
            sum(counted[text] for text, said in zip(texts, back, strict=True) if _bare(said) == _bare(text)),
            every,
            otherwise=1.0,
        ),
        usable=usable,
        attends=attends,
    )


def readings_of(
    words: Mapping[str, Tokenizer], family: FamilyFacts, facts: BaseFacts, captions: Mapping[str, Sequence[str]]
) -> list[Reading]:
    """A reading for each language and each of the tokenizers, which are named by their folders."""
    readers = family.readers or tuple(words)
    return [
        read(
            tokenizer,
            texts,
            language=language,
            name=name,
            usable=facts.caption_tokens.get(name) or usable(tokenizer, facts.text_length, preamble=facts.preamble),
            attends=name in readers,
        )
        for language, texts in captions.items()
        for name, tokenizer in words.items()
    ]


def faults(readings: Iterable[Reading]) -> list[tuple[Violation, str]]:
    """(What is wrong, its remedy) for each language that no encoder reads which reaches the attention layers."""
    found = _by_language(readings)
    read_ones = [language for language, some in found.items() if any(reading.reads for reading in some)]
    out = "choose a base that reads it"
    if read_ones:
        out = f"leave it out (languages: {', '.join(read_ones)}), or {out}"
    refused = []
    for language, some in found.items():
        if language in read_ones:
            continue
        best = min(some, key=lambda reading: (reading.unknown > UNKNOWN, reading.unknown, reading.lost))
        if best.unknown > UNKNOWN:
            reason = "LANGUAGE_UNREADABLE"
            message = (
                f"the base cannot read the captions in '{language}': {best.tokenizer} does not know "
                f"{percent(best.unknown)} of their words (at most {percent(UNKNOWN)} may be unknown)"
            )
            remedy = out
        else:
            reason = "LANGUAGE_TRUNCATED"
            message = (
                f"the base takes {best.usable} tokens of a caption, and {percent(best.lost)} of what the captions in "
                f"'{language}' say lies beyond ({best.tokens_per_word:.1f} tokens a word; at most {percent(LOST)} may)"
            )
            remedy = f"shorten them, or {out}"
        refused.append((Violation(field="languages", message=message, reason=reason), remedy))
    return refused


def warnings(readings: Iterable[Reading]) -> list[Violation]:
    """What is worth knowing of languages that are read: how far they are split, cut, unknown, or changed."""
    told = []
    for language, some in _by_language(readings).items():
        if not any(reading.reads for reading in some):
            continue
        for reading in some:
            told += [
                Violation(field="languages", message=f"'{language}' in {reading.tokenizer}: {message}", reason=reason)
                for message, reason in _remarks(reading)
            ]
    return told


def _remarks(reading: Reading) -> list[tuple[str, str]]:
    remarks = []
    if reading.unknown:
        words = f"{percent(reading.unknown)} of the words are unknown"
        remarks.append((words if reading.reads else f"{words}; only another encoder reads them", "WORDS_UNKNOWN"))
    if reading.cut:
        remarks.append(
            (
                f"{percent(reading.cut)} of the captions are cut at {reading.usable} tokens, "
                f"{percent(reading.lost)} of all tokens is lost",
                "CAPTIONS_TRUNCATED",
            )
        )
    if reading.tokens_per_word > SPLIT:
        remarks.append(
            (f"{reading.tokens_per_word:.1f} tokens a word: words are spelt rather than read", "WORDS_SPLIT")
        )
    if reading.round_trip < 1.0 and not reading.unknown:
        remarks.append((f"{percent(1.0 - reading.round_trip)} of the captions decode to another text", "TEXT_CHANGED"))
    return remarks


def _by_language(readings: Iterable[Reading]) -> dict[str, list[Reading]]:
    """The readings that count, by language in the order of its first."""
    found: dict[str, list[Reading]] = {}
    for reading in readings:
        if reading.attends:
            found.setdefault(reading.language, []).append(reading)
    return found


def _codes(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    # Not verbose: a caption longer than the tokenizer's limit is what is looked for.
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []


def _unknown(tokenizer: Tokenizer, words: list[str]) -> list[str]:
    """Words that hold a piece without an entry, or of which nothing is left.

    Alone, because an unknown word may be one unknown token among others that only stand for the space before it.
    """
    coded = _codes(tokenizer, words)
    back = tokenizer.batch_decode(coded) if coded else []
    return [
        word
        for word, ids, said in zip(words, coded, back, strict=True)
        if tokenizer.unk_token_id in ids or not said.strip()
    ]


def _bare(text: str) -> str:
    return _SPACE.sub("", unicodedata.normalize("NFKC", text)).casefold()


def _share(part: float, whole: float, *, otherwise: float = 0.0) -> float:
    return part / whole if whole else otherwise


def percent(share: float) -> str:
    """A share as it is told."""
    return f"{100 * share:.0f} %" if not 0 < share < 0.01 else f"{100 * share:.1g} %"
