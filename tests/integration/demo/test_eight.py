"""The sheet of eight wishes."""

from hayy.demo import sheet
from hayy.demo.eight import WISHES, Granted


def test_the_sheet_says_who_asked_for_what_each_in_the_direction_of_its_language() -> None:
    granted = [Granted(wish=wish, picture=b"png", together=12) for wish in WISHES]
    cards = sheet.page(granted, together=12, rows=15).split("<section>")[1:]
    assert len(cards) == 8
    for wish, card in zip(WISHES, cards, strict=True):
        arabic = any("\u0600" <= letter <= "\u06ff" for letter in wish.prompt)
        assert f'<div dir="{"rtl" if arabic else "ltr"}"><h2>{wish.who}</h2>' in card
        assert f"{wish.steps} steps, {wish.scheduler}, guidance {wish.guidance:g}, seed {wish.seed}" in card
        assert all(f"{name} × {weight:g}" in card for name, weight in wish.adapters.items())


def test_the_eight_differ_in_everything_that_one_batch_may_mix() -> None:
    assert sum(wish.rows for wish in WISHES) == 15
    assert len({wish.steps for wish in WISHES}) == len({wish.prompt for wish in WISHES}) == 8
    assert len({wish.scheduler for wish in WISHES}) == 4
    assert len({tuple(wish.adapters.items()) for wish in WISHES}) == 5
