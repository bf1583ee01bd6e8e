"""What a tokenizer is given."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marsam.diffusion.text import plain


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("عالِمة", "عالمة"),
        ("مُهَنْدِسٌ", "مهندس"),
        ("هٰذا", "هذا"),
        ("مـــختبر", "مختبر"),
        ("  a  red\tkite\n", "a red kite"),
        ("أ", "أ"),
        ("cafe\u0301", "café"),
        ("", ""),
    ],
)
def test_marks_and_tatweel_go_letters_stay(given_text: str, expected: str) -> None:
    assert plain(given_text) == expected


@given(st.text(alphabet="ab عالمةأ\u064b\u0650\u0652\u0640\u0670\u0654\t"))
def test_twice_is_once(text: str) -> None:
    once = plain(text)
    assert plain(once) == once
    assert not set(once) & set("\u064b\u0650\u0652\u0640\u0670")
