"""Words in Markdown, other people's among them."""

import json
import re
import unicodedata
from collections.abc import Sequence

_TURNS = re.compile("[\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069\ufeff]")
_PLAIN = re.compile(r"[0-9A-Za-z ,;?.'%+/()\u00a0-\U0010ffff-]")
_LINKED = re.compile(r"(?i)(?<=www)\.")


def plain(text: str) -> str:
    """Other people's words on one line, without what is not printed and without marks that turn the direction."""
    text = _TURNS.sub("", unicodedata.normalize("NFC", text))
    text = "".join(" " if unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs", "Cn") else letter for letter in text)
    return " ".join(text.split())


def words(text: str) -> str:
    """Other people's words inside Markdown: whatever could be mark-up is written as a reference to the character."""
    text = "".join(letter if _PLAIN.match(letter) else f"&#{ord(letter)};" for letter in plain(text))
    return _LINKED.sub("&#46;", text)


def literal(text: str) -> str:
    """Other people's words as a literal of Python inside a block of code."""
    return json.dumps(plain(text), ensure_ascii=False).replace("`", "\\u0060")


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Names beside their values; those without one are left out."""
    shown = [f"| {name} | {value} |" for name, value in rows if value]
    return "\n".join(["| | |", "| --- | --- |", *shown])
