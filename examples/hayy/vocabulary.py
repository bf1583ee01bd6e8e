"""The words by which Hayy's captions name each attribute: what lets curation compare a caption with what is
declared.
"""

from hayy.attributes import GEAR
from hayy.lexicon import (
    BARE_HEAD_AR,
    BARE_HEAD_EN,
    COVER,
    DEMONYM_AR,
    DEMONYM_EN,
    GARMENT,
    PERSON_AR,
    PLACE_AR,
    PLACE_EN,
    ROLE_AR,
    ROLE_EN,
    TOOL,
    ByGender,
    Thing,
)

Phrases = dict[str, dict[str, list[str]]]


def vocabulary() -> dict[str, Phrases]:
    """Return attribute → value → language → phrases, for every value that a caption can name."""
    bare = {"none": {"en": [BARE_HEAD_EN], "ar": _both(BARE_HEAD_AR)}}
    return {
        "role": {role: {"en": [ROLE_EN[role]], "ar": _both(ROLE_AR[role])} for role in GEAR},
        "gender": {
            "man": {"en": ["man"], "ar": [PERSON_AR.man]},
            "woman": {"en": ["woman"], "ar": [PERSON_AR.woman]},
        },
        "demonym": {name: {"en": [DEMONYM_EN[name]], "ar": _both(DEMONYM_AR[name])} for name in DEMONYM_EN},
        "place": {place: {"en": [PLACE_EN[place]], "ar": [PLACE_AR[place]]} for place in PLACE_EN},
        "garment": _things(GARMENT),
        "head_cover": {**_things(COVER), **bare},
        "tool": _things(TOOL),
    }


def _both(word: ByGender) -> list[str]:
    return [word.man, word.woman]


def _things(things: dict[str, Thing]) -> Phrases:
    return {value: {"en": [thing.en], "ar": [thing.ar]} for value, thing in things.items()}
