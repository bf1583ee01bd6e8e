"""What every caption and prompt goes through before a tokenizer sees it. Standard library only, shared by training,
serving and Hayy.

CLIP's pre-tokeniser splits words at everything that is not a letter, and an Arabic vowel mark is a mark, not a
letter: عالِمة would become three pieces. The marks carry no meaning that a caption needs, so they go; so does the
tatweel, which only stretches a word.
"""

import re
import unicodedata

_MARKS = re.compile("[\u064b-\u0652\u0670\u0640]")
_SPACE = re.compile(r"\s+")


def plain(text: str) -> str:
    """Strip Arabic vowel marks (U+064B-U+0652, U+0670) and tatweel (U+0640), compose (NFC), collapse white space."""
    # Strip first: a tatweel may stand between a letter and the hamza that belongs on it.
    return _SPACE.sub(" ", unicodedata.normalize("NFC", _MARKS.sub("", text))).strip()
