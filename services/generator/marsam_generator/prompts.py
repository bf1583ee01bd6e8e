"""What a base's tokenizers make of a prompt, told before it is drawn: words that do not arrive cannot be drawn."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from marsam.diffusion.reading import SPLIT, UNKNOWN, Reading, Tokenizer, percent, readings_of
from marsam.diffusion.spec import BaseFacts, FamilyFacts
from marsam.diffusion.text import plain

_HOME = "Latin"
"""Every tokenizer here was made for this script: rare names are spelt in it, and are read all the same."""

SPLIT_LETTER = 2.0
"""As `SPLIT`, of scripts that put no space between words: tokens per letter. (Bytes: 3; Qwen: Chinese 0.7.)"""


def remarks(
    words: Mapping[str, Tokenizer], family: FamilyFacts, facts: BaseFacts, prompts: Mapping[str, str]
) -> list[str]:
    """What is worth knowing of `prompts`, by what they are called: scripts that the base cannot read, and what it does
    not take any more."""
    return [remark for name, text in prompts.items() for remark in _of(words, family, facts, name, plain(text))]


def _of(words: Mapping[str, Tokenizer], family: FamilyFacts, facts: BaseFacts, name: str, text: str) -> Iterator[str]:
    for script, some in _by_script(text).items():
        found = _attending(readings_of(words, family, facts, {script: [" ".join(some)]}))
        known = [reading for reading in found if reading.unknown <= UNKNOWN]
        if found and not known:
            best = min(found, key=lambda reading: reading.unknown)
            yield (
                f"the base cannot read the {script} words of the {name}: its {best.tokenizer} does not know "
                f"{percent(best.unknown)} of them, so the picture has nothing of what they say"
            )
        elif known and script != _HOME and all(_spells(reading, some) for reading in known):
            yield (
                f"the base has most likely not learnt to read the {script} words of the {name}: its "
                f"{known[0].tokenizer} spells them, {known[0].tokens_per_word:.1f} tokens a word"
            )
    whole = _attending(readings_of(words, family, facts, {name: [text]})) if text else []
    if whole and all(reading.lost for reading in whole):
        most = min(whole, key=lambda reading: reading.lost)
        yield (
            f"the base takes {most.usable} tokens of a {name}; {percent(most.lost)} of this one lies beyond and is "
            f"ignored"
        )


def _spells(reading: Reading, words: Sequence[str]) -> bool:
    """Whether a tokenizer has only letters, or bytes of letters, for such words."""
    # Where nothing parts words, each letter counts as one.
    parted = reading.words <= len(words)
    return reading.tokens_per_word > (SPLIT if parted else SPLIT_LETTER)


def _attending(readings: Sequence[Reading]) -> list[Reading]:
    return [reading for reading in readings if reading.attends]


def _by_script(text: str) -> dict[str, list[str]]:
    """The words of a text by the script of their first letter; what has none belongs to no script."""
    found: dict[str, list[str]] = {}
    for word in text.split():
        letter = next((letter for letter in word if letter.isalpha()), None)
        if letter is not None:
            found.setdefault(unicodedata.name(letter, "UNNAMED").split()[0].title(), []).append(word)
    return found
