"""Which language a caption is in, as far as script, letters and function words tell. No model, no data to download.

This answers one question well: is the text in the language that was declared for it? Between languages of one script it
speaks up only on clear evidence.
"""

import unicodedata
from functools import lru_cache

_SCRIPT_OF_LANGUAGE = {
    **dict.fromkeys(("ar", "fa", "ur", "ps", "ckb", "sd", "ug"), "ARABIC"),
    **dict.fromkeys(
        (
            "en",
            "fr",
            "de",
            "es",
            "it",
            "pt",
            "nl",
            "sv",
            "da",
            "no",
            "fi",
            "pl",
            "cs",
            "ro",
            "hu",
            "tr",
            "id",
            "ms",
            "sw",
            "vi",
        ),
        "LATIN",
    ),
    **dict.fromkeys(("ru", "uk", "bg", "sr", "kk"), "CYRILLIC"),
    "el": "GREEK",
    "he": "HEBREW",
    **dict.fromkeys(("hi", "mr", "ne"), "DEVANAGARI"),
    "bn": "BENGALI",
    "th": "THAI",
    "ko": "HANGUL",
    "zh": "CJK",
    "ja": "CJK",
}
_ALSO_JAPANESE = ("HIRAGANA", "KATAKANA")

_FUNCTION_WORDS = {
    "en": "a an the of in on at with and is are by from to his her their wearing holding near behind under",
    "fr": "un une le la les des du de dans sur avec et est au aux par pour qui son sa",
    "de": "in ein eine einer einem der die das den dem und mit im auf ist von zu vor hinter neben trägt",
    "es": "un una el la los las del de en con y es por para que su al sobre",
    "it": "in un una uno il lo la gli le di del della in con e è per che nel sul",
    "pt": "um uma o a os as do da de em no na com e é por para que seu",
    "tr": "bir ve ile bu da de için olan üzerinde yanında giyen tutan",
    "nl": "in een de het van in op met en is bij door naar zijn haar draagt",
    "id": "seorang sebuah di dengan dan yang dari pada memakai memegang",
}
_WORDS = {language: frozenset(words.split()) for language, words in _FUNCTION_WORDS.items()}
_NOT_ARABIC_LETTERS = frozenset("پچژگٹڈڑےہکی")
_CLEAR = 2


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "")
    return name.split(" ", 1)[0] if name else ""


def scripts(text: str) -> dict[str, float]:
    """Return the share of each script among the letters of `text`; empty when it has none."""
    counts: dict[str, int] = {}
    for character in text:
        if character.isalpha():
            script = _script(character)
            script = "CJK" if script in _ALSO_JAPANESE else script
            counts[script] = counts.get(script, 0) + 1
    total = sum(counts.values())
    return {script: count / total for script, count in counts.items()}


def primary(language: str) -> str:
    """Return the language without region or script: 'ar' of 'ar-EG'."""
    return language.replace("_", "-").split("-", 1)[0].lower()


def expected_share(text: str, language: str) -> float | None:
    """Return the share of letters in the script of `language`; None when that language or any letter is unknown."""
    script = _SCRIPT_OF_LANGUAGE.get(primary(language))
    found = scripts(text)
    return found.get(script, 0.0) if script and found else None


def contradicted_by(text: str, language: str) -> str | None:
    """Return the language that `text` is clearly in although `language`, of the same script, was declared; else
    None.
    """
    declared = primary(language)
    if declared == "ar":
        foreign = sum(c in _NOT_ARABIC_LETTERS for c in text)
        return "fa" if foreign >= _CLEAR else None
    if declared not in _WORDS:
        return None
    words = {word.strip(".,;:!?\"'()") for word in text.lower().split()}
    own = _WORDS[declared]
    # A word that both languages have ('in', 'a') speaks for neither.
    for_other = {other: len(words & (known - own)) for other, known in _WORDS.items() if other != declared}
    best = max(for_other, key=lambda other: for_other[other])
    return best if for_other[best] >= _CLEAR and not words & (own - _WORDS[best]) else None


def guess(text: str) -> str:
    """Return 'ar', 'en' or another code for a text that came without a language; 'und' when nothing speaks for one."""
    found = scripts(text)
    if not found:
        return "und"
    script = max(found, key=lambda s: found[s])
    if script == "ARABIC":
        return contradicted_by(text, "ar") or "ar"
    if script == "LATIN":
        return contradicted_by(text, "en") or "en"
    known = [language for language, s in _SCRIPT_OF_LANGUAGE.items() if s == script]
    return known[0] if len(known) == 1 else "und"
