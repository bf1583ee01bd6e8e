"""Captions that are absent, damaged, in another language than declared, or no description at all."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from marsam.catalog.datasets import Caption, Finding, Item
from marsam_dataset.captions import language
from marsam_dataset.captions.forms import matching_key, repaired_mojibake
from marsam_dataset.checks.batch import Batch, Found, found

NAME = "caption"
FEWEST_WORDS, MOST_WORDS = 2, 75
LEAST_SHARE, CLEAN_SHARE = 0.6, 0.9
"""Letters in the script of the declared language: below the first it is another language, below the second it is
mixed.
"""

_LINK = re.compile(r"https?://|www\.|\S+@\S+\.\w|(^|\s)#\w")
_STOCK = re.compile(
    r"stock (photo|image|picture)|shutterstock|getty ?images|alamy|صورة مخزون|royalty.free", re.IGNORECASE
)
_FILE = re.compile(
    r"(^|\s)\S+\.(jpe?g|png|webp|gif|bmp|tiff?|avif|heic)\b|^(img|dsc|dscn|pxl|screenshot)[ _-]?\d+", re.IGNORECASE
)


def check(batch: Batch) -> Iterator[Found]:
    """Look at each caption by itself."""
    for item in batch.items:
        if not item.captions:
            yield found(item, NAME, "fail", "CAPTION_MISSING", "No caption was found for this picture.")
        for caption in item.captions:
            for finding in _one(item, caption):
                yield Found(item=item.id, finding=finding)


def _one(item: Item, caption: Caption) -> Iterator[Finding]:
    text, shown = caption.text, _shown(caption)
    repaired = repaired_mojibake(text)
    if repaired is not None or "\ufffd" in text:
        hint = f" It was probably “{repaired[:60]}”." if repaired else ""
        yield _finding("fail", "CAPTION_GARBLED", f"{shown} was damaged by a wrong character encoding.{hint}")
        return
    key = matching_key(text)
    stem = matching_key(PurePosixPath(item.file_name).stem.replace("_", " "))
    if key and (key == stem or _FILE.search(text)):
        yield _finding("fail", "CAPTION_IS_FILE_NAME", f"{shown} is a file name.")
        return
    words = len(key.split())
    if words < FEWEST_WORDS:
        yield _finding("warn", "CAPTION_SHORT", f"{shown} says too little: {words} word(s).")
    elif words > MOST_WORDS:
        message = f"{shown} has {words} words; text encoders read about {MOST_WORDS} and drop the rest."
        yield _finding("warn", "CAPTION_LONG", message)
    if _LINK.search(text) or _STOCK.search(text):
        yield _finding("warn", "CAPTION_BOILERPLATE", f"{shown} carries a link, a tag or a seller's phrase.")
    yield from _language(caption, shown)


def _language(caption: Caption, shown: str) -> Iterator[Finding]:
    share = language.expected_share(caption.text, caption.language)
    if share is not None and share < LEAST_SHARE:
        actual = language.guess(caption.text)
        message = f"{shown} is declared as '{caption.language}' and written in another language ('{actual}')."
        yield _finding("fail", "CAPTION_LANGUAGE", message)
    elif share is not None and share < CLEAN_SHARE:
        message = f"{shown} mixes scripts: {1 - share:.0%} of its letters are not of '{caption.language}'."
        yield _finding("warn", "CAPTION_MIXED_SCRIPT", message)
    elif other := language.contradicted_by(caption.text, caption.language):
        message = f"{shown} is declared as '{caption.language}' and reads like '{other}'."
        yield _finding("fail", "CAPTION_LANGUAGE", message)


def _finding(severity: str, reason: str, message: str) -> Finding:
    return Finding(check=NAME, severity="fail" if severity == "fail" else "warn", reason=reason, message=message)


def _shown(caption: Caption) -> str:
    text = caption.text if len(caption.text) <= 60 else caption.text[:59] + "…"
    return f"The '{caption.language}' caption “{text}”"
