"""The words of Hayy in English and Arabic.

Arabic is written without vowel marks. A noun carries its gender, because its adjectives agree with it, and the
form it takes as the object of "wears" or "holds" (indefinite accusative, so with a final alif where it is due).
"""

from __future__ import annotations

from dataclasses import dataclass

from hayy.attributes import ROLES

LANGUAGES = ("en", "ar")


@dataclass(frozen=True, slots=True)
class ByGender:
    """A word said of a man and of a woman, or agreeing with a masculine and a feminine noun."""

    man: str
    woman: str

    def of(self, gender: str) -> str:
        """Return the form for 'man' or 'woman'."""
        return self.woman if gender == "woman" else self.man


@dataclass(frozen=True, slots=True)
class Thing:
    """A garment, cover or tool: `en` takes an article unless `plural`; `ar` is its accusative."""

    en: str
    ar: str
    feminine: bool
    plural: bool = False


@dataclass(frozen=True, slots=True)
class Colour:
    """A colour: English, and Arabic agreeing with an accusative noun of each gender."""

    en: str
    ar: ByGender

    def arabic(self, thing: Thing) -> str:
        """Return the Arabic adjective that agrees with `thing`."""
        return self.ar.of("woman" if thing.feminine else "man")


ROLE_EN = {role: role for role in ROLES}
ROLE_AR = {
    "scientist": ByGender("عالم", "عالمة"),
    "doctor": ByGender("طبيب", "طبيبة"),
    "engineer": ByGender("مهندس", "مهندسة"),
    "painter": ByGender("رسام", "رسامة"),
    "teacher": ByGender("معلم", "معلمة"),
    "chef": ByGender("طباخ", "طباخة"),
    "musician": ByGender("عازف", "عازفة"),
    "farmer": ByGender("مزارع", "مزارعة"),
}
PERSON_AR = ByGender("رجل", "امرأة")

DEMONYM_EN = {
    "arab": "Arab",
    "emirati": "Emirati",
    "egyptian": "Egyptian",
    "moroccan": "Moroccan",
    "syrian": "Syrian",
    "french": "French",
    "japanese": "Japanese",
    "brazilian": "Brazilian",
    "kenyan": "Kenyan",
}
DEMONYM_AR = {
    "arab": ByGender("عربي", "عربية"),
    "emirati": ByGender("إماراتي", "إماراتية"),
    "egyptian": ByGender("مصري", "مصرية"),
    "moroccan": ByGender("مغربي", "مغربية"),
    "syrian": ByGender("سوري", "سورية"),
    "french": ByGender("فرنسي", "فرنسية"),
    "japanese": ByGender("ياباني", "يابانية"),
    "brazilian": ByGender("برازيلي", "برازيلية"),
    "kenyan": ByGender("كيني", "كينية"),
}

COLOURS = {
    "red": Colour("red", ByGender("أحمر", "حمراء")),
    "blue": Colour("blue", ByGender("أزرق", "زرقاء")),
    "green": Colour("green", ByGender("أخضر", "خضراء")),
    "yellow": Colour("yellow", ByGender("أصفر", "صفراء")),
    "purple": Colour("purple", ByGender("بنفسجيا", "بنفسجية")),
    "orange": Colour("orange", ByGender("برتقاليا", "برتقالية")),
    "black": Colour("black", ByGender("أسود", "سوداء")),
    "white": Colour("white", ByGender("أبيض", "بيضاء")),
}

GARMENT = {
    "thobe": Thing("thobe", "ثوبا", feminine=False),
    "abaya": Thing("abaya", "عباءة", feminine=True),
    "lab_coat": Thing("lab coat", "معطف مختبر", feminine=False),
    "scrubs": Thing("scrubs", "بدلة جراحة", feminine=True, plural=True),
    "safety_vest": Thing("safety vest", "سترة سلامة", feminine=True),
    "smock": Thing("painter's smock", "مريلة رسم", feminine=True),
    "suit": Thing("suit", "بدلة رسمية", feminine=True),
    "chef_jacket": Thing("chef jacket", "سترة طباخ", feminine=True),
    "shirt": Thing("shirt", "قميصا", feminine=False),
    "overalls": Thing("overalls", "ملابس عمل", feminine=True, plural=True),
}
COVER = {
    "keffiyeh": Thing("keffiyeh", "كوفية", feminine=True),
    "headscarf": Thing("headscarf", "حجابا", feminine=False),
    "hard_hat": Thing("hard hat", "خوذة", feminine=True),
    "chef_hat": Thing("chef hat", "قبعة طباخ", feminine=True),
    "beret": Thing("beret", "قبعة بيريه", feminine=True),
    "straw_hat": Thing("straw hat", "قبعة قش", feminine=True),
}
BARE_HEAD_EN = "bareheaded"
BARE_HEAD_AR = ByGender("حاسر الرأس", "حاسرة الرأس")
TOOL = {
    "flask": Thing("flask", "دورقا", feminine=False),
    "clipboard": Thing("clipboard", "لوح كتابة", feminine=False),
    "wrench": Thing("wrench", "مفتاح ربط", feminine=False),
    "palette": Thing("palette", "لوحة ألوان", feminine=True),
    "book": Thing("book", "كتابا", feminine=False),
    "frying_pan": Thing("frying pan", "مقلاة", feminine=True),
    "oud": Thing("oud", "عودا", feminine=False),
    "basket": Thing("basket of fruit", "سلة فواكه", feminine=True),
    "cup": Thing("cup of coffee", "فنجان قهوة", feminine=False),
    "dallah": Thing("dallah", "دلة", feminine=True),
}

PLACE_EN = {
    "desert": "in the desert",
    "laboratory": "in a laboratory",
    "hospital": "in a hospital",
    "building_site": "on a building site",
    "studio": "in an art studio",
    "classroom": "in a classroom",
    "kitchen": "in a kitchen",
    "stage": "on a stage",
    "field": "in a field",
    "street": "in a street",
    "courtyard": "in a courtyard",
}
PLACE_AR = {
    "desert": "في الصحراء",
    "laboratory": "في مختبر",
    "hospital": "في مستشفى",
    "building_site": "في موقع بناء",
    "studio": "في مرسم",
    "classroom": "في فصل دراسي",
    "kitchen": "في مطبخ",
    "stage": "على مسرح",
    "field": "في حقل",
    "street": "في شارع",
    "courtyard": "في فناء",
}
