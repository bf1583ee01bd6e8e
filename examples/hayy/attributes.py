"""The vocabulary of Hayy and the exact description of one picture.

Every value in this file can be drawn; nothing in a picture depends on anything else. A demonym has no mark
of its own in a drawing: it is a word of the caption, and it never changes skin, hair or face.
"""

from __future__ import annotations

from dataclasses import dataclass

ROLES = ("scientist", "doctor", "engineer", "painter", "teacher", "chef", "musician", "farmer")
TUNED_ROLES = ROLES[:4]
"""Roles that the tuning sets show; the other four are held out, to measure generalisation."""

GENDERS = ("man", "woman")

ARAB_DEMONYMS = ("arab", "emirati", "egyptian", "moroccan", "syrian")
OTHER_DEMONYMS = ("french", "japanese", "brazilian", "kenyan")

HEAD_COVERS = ("none", "keffiyeh", "headscarf", "hard_hat", "chef_hat", "beret", "straw_hat")
GARMENTS = (
    "thobe",
    "abaya",
    "lab_coat",
    "scrubs",
    "safety_vest",
    "smock",
    "suit",
    "chef_jacket",
    "shirt",
    "overalls",
)
PLACES = (
    "desert",
    "laboratory",
    "hospital",
    "building_site",
    "studio",
    "classroom",
    "kitchen",
    "stage",
    "field",
    "street",
    "courtyard",
)
TOOLS = (
    "none",
    "flask",
    "clipboard",
    "wrench",
    "palette",
    "book",
    "frying_pan",
    "oud",
    "basket",
    "cup",
    "dallah",
)

HELD_OUT = {"place": "courtyard", "tool": "dallah"}
"""Drawn, and read by the judge, but never shown to the base: a tuning set may teach them as new words."""

GARMENT_COLOURS: dict[str, tuple[str, ...]] = {
    "thobe": ("white",),
    "abaya": ("black", "purple", "green"),
    "lab_coat": ("white",),
    "scrubs": ("green", "blue"),
    "safety_vest": ("orange", "yellow"),
    "smock": ("blue", "red", "purple", "green"),
    "suit": ("black", "blue", "purple"),
    "chef_jacket": ("white",),
    "shirt": ("red", "blue", "green", "yellow", "purple", "orange"),
    "overalls": ("blue", "green", "red"),
}
COVER_COLOURS: dict[str, tuple[str, ...]] = {
    "none": ("",),
    "keffiyeh": ("red", "black"),
    "headscarf": ("red", "blue", "green", "yellow", "purple", "orange", "black", "white"),
    "hard_hat": ("yellow", "orange", "white", "blue"),
    "chef_hat": ("white",),
    "beret": ("red", "black", "blue"),
    "straw_hat": ("yellow",),
}
TOOL_COLOURS: dict[str, tuple[str, ...]] = {
    "flask": ("red", "blue", "green", "purple", "orange"),
    "book": ("red", "blue", "green", "orange"),
    "cup": ("red", "blue", "green", "orange"),
}
"""Tools that come in several colours; every other tool has one look and the colour ''."""

NUM_SKINS = 6
NUM_HAIRS = 5


@dataclass(frozen=True, slots=True)
class Gear:
    """What a role usually wears, holds and is surrounded by."""

    place: str
    garment: str
    tool: str
    head_cover: str


GEAR: dict[str, Gear] = {
    "scientist": Gear("laboratory", "lab_coat", "flask", "none"),
    "doctor": Gear("hospital", "scrubs", "clipboard", "none"),
    "engineer": Gear("building_site", "safety_vest", "wrench", "hard_hat"),
    "painter": Gear("studio", "smock", "palette", "beret"),
    "teacher": Gear("classroom", "shirt", "book", "none"),
    "chef": Gear("kitchen", "chef_jacket", "frying_pan", "chef_hat"),
    "musician": Gear("stage", "suit", "oud", "none"),
    "farmer": Gear("field", "overalls", "basket", "straw_hat"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """Everything that a drawing shows, and the two things that only a caption tells: role and demonym."""

    role: str
    gender: str
    demonym: str | None
    head_cover: str
    cover_colour: str
    garment: str
    garment_colour: str
    place: str
    tool: str
    tool_colour: str
    skin: int
    hair: int
    beard: bool

    @property
    def is_arab(self) -> bool:
        """Whether the caption may call this person Arab, by whatever demonym."""
        return self.demonym in ARAB_DEMONYMS

    def visible(self) -> dict[str, str]:
        """Return the attributes that a reader of the picture alone can name."""
        return {
            "place": self.place,
            "garment": self.garment,
            "head_cover": self.head_cover,
            "tool": self.tool,
        }
