"""The two forms of a caption, and the language that it is in."""

import pytest
from marsam_dataset.captions.forms import matching_key, repaired_mojibake, stored_form, unbalanced_bidi
from marsam_dataset.captions.language import contradicted_by, expected_share, guess


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("  a\tred\r\n circle ", "a red circle"),
        ("ﺳﻼم", "سلام"),  # presentation forms
        ("مـــرسم", "مرسم"),  # tatweel
        ("\u202bعالِمة\u202c في\u200f مختبر", "عالِمة في مختبر"),  # controls go, the vowel mark stays
        ("e\u0301tude", "étude"),
        ("إلى المدرسة؟", "إلى المدرسة؟"),  # hamza, ta marbuta, punctuation stay
    ],
)
def test_the_stored_form_is_one_clean_line(written: str, stored: str) -> None:
    assert stored_form(written) == stored
    assert stored_form(stored) == stored


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("عالِمَة", "عالمه"),
        ("إمرأة", "امراه"),
        ("مستشفى", "مستشفي"),
        ("کتاب", "كتاب"),
        ("١٢٣", "123"),
        ("A Red, circle!", "a red circle"),
        ("painter's smock", "Painter s smock"),
    ],
)
def test_spellings_of_one_text_have_one_key(one: str, other: str) -> None:
    assert matching_key(one) == matching_key(other)


def test_different_words_keep_different_keys() -> None:
    assert matching_key("طبيب") != matching_key("طبيبة")


def test_unclosed_direction_marks_are_seen() -> None:
    assert unbalanced_bidi("\u202eevil")
    assert unbalanced_bidi("x\u202c")
    assert unbalanced_bidi("\u2067a")
    assert not unbalanced_bidi("\u202bعربي\u202c و\u2067b\u2069")


@pytest.mark.parametrize("text", ["مرسم في الحي", "café du Caire", "naïve façade"])
def test_mojibake_is_told_from_accents_and_repaired(text: str) -> None:
    assert repaired_mojibake(text) is None
    assert repaired_mojibake(text.encode().decode("latin-1")) == text


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("a doctor in a hospital", "en"),
        ("طبيبة في مستشفى", "ar"),
        ("un médecin dans un hôpital", "fr"),
        ("ein Arzt in einem Krankenhaus mit der Tasche", "de"),
        ("врач в больнице", "und"),
        ("γιατρός", "el"),
        ("123", "und"),
    ],
)
def test_guesses(text: str, language: str) -> None:
    assert guess(text) == language


def test_shares_and_contradictions() -> None:
    assert expected_share("a cup دلة", "en") == pytest.approx(4 / 7)
    assert expected_share("عالمة", "ar-EG") == 1.0
    assert expected_share("word", "xx") is None
    assert contradicted_by("Emirati scientist, laboratory", "en") is None, "no function word at all is no evidence"
    assert contradicted_by("une femme dans la rue", "en") == "fr"
    assert contradicted_by("مردی با پیراهن گل‌دار در چادر", "ar") == "fa"
