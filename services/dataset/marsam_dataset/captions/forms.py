"""The two forms of a caption, never mixed: the one that is kept and trained on, and the key by which texts are
compared.
"""

import re
import unicodedata

_ZERO_WIDTH = "\u200b\u200c\u200d\u2060\ufeff"
_BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_TATWEEL = "\u0640"
_DROPPED = str.maketrans(dict.fromkeys(_ZERO_WIDTH + _BIDI + _TATWEEL))
_TASHKEEL = re.compile(r"[\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed]")
_PRESENTATION = re.compile(r"[\ufb50-\ufdff\ufe70-\ufeff]+")
_SPACES = re.compile(r"\s+")
_FOLDED = str.maketrans(
    {
        **dict.fromkeys("أإآٱ", "ا"),
        "ى": "ي",
        "ی": "ي",
        "ئ": "ي",
        "ؤ": "و",
        "ة": "ه",
        "ک": "ك",
        **{chr(0x0660 + n): str(n) for n in range(10)},
        **{chr(0x06F0 + n): str(n) for n in range(10)},
    }
)


def stored_form(text: str) -> str:
    """Return `text` readable and almost lossless: one line, NFC, no invisible controls, no tatweel.

    Hamza, ta marbuta, vowel marks and punctuation stay: they are the author's.
    """
    text = _PRESENTATION.sub(lambda m: unicodedata.normalize("NFKC", m.group()), text.translate(_DROPPED))
    text = unicodedata.normalize("NFC", text)
    text = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)
    return _SPACES.sub(" ", text).strip()


def matching_key(text: str) -> str:
    """Return what `text` is compared by: lower case, vowel marks and punctuation gone, spelling variants folded.

    Never shown and never trained on. Words are separated by single spaces.
    """
    text = _TASHKEEL.sub("", unicodedata.normalize("NFKC", stored_form(text))).translate(_FOLDED).casefold()
    return " ".join("".join(c if c.isalnum() else " " for c in text).split())


def unbalanced_bidi(text: str) -> bool:
    """Say whether `text` opens a direction override, embedding or isolate that it does not close, or the reverse.

    Such a text displays in another order than it is stored, and drags what follows along.
    """
    depth = {"embedding": 0, "isolate": 0}
    for character in text:
        if character in "\u202a\u202b\u202d\u202e":
            depth["embedding"] += 1
        elif character == "\u202c":
            depth["embedding"] -= 1
        elif character in "\u2066\u2067\u2068":
            depth["isolate"] += 1
        elif character == "\u2069":
            depth["isolate"] -= 1
        if min(depth.values()) < 0:
            return True
    return any(depth.values())


def repaired_mojibake(text: str) -> str | None:
    """Return what `text` was before UTF-8 bytes were read as Windows-1252 or Latin-1; None when it never was.

    Only a text that decodes whole to something with fewer characters counts, so 'café' and 'Ångström' stay as they are.
    """
    if text.isascii():
        return None
    for wrong in ("cp1252", "latin-1"):
        try:
            repaired = text.encode(wrong).decode("utf-8")
        except UnicodeError:
            continue
        if len(repaired) < len(text) and not repaired.isascii():
            return repaired
    return None
