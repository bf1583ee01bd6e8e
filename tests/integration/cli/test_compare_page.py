"""The page of a comparison as people see it: a real browser, wide and narrow, light and dark."""

import time
from pathlib import Path

import pytest

from marsam.cli.compare.page import render
from tests.integration.evaluation.chromium import Chromium
from tests.unit.cli.trials import trial

pytestmark = pytest.mark.slow
SHOWN = """[...document.querySelectorAll('.scene img')].every(i => i.complete && i.naturalWidth > 0)"""
INSIDE = """[...document.querySelectorAll('svg.curve path')].every(p => {
  const a = p.getBoundingClientRect(), b = p.ownerSVGElement.getBoundingClientRect();
  return a.width > 0 && a.left >= b.left - 4 && a.right <= b.right + 4;
})"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    failed = trial(2, state="failed", title="a-very-long-name-that-somebody-gave-to-a-run-and-never-cut-short")
    failed.remarks.append("it published no model: the loss was not finite")
    failed.samples = failed.samples[:1]
    file = tmp_path_factory.mktemp("page") / "comparison.html"
    file.write_text(render([trial(0), trial(1, title="حي الرتبة ٤", learning_rate=3e-4), failed]), encoding="utf-8")
    return file


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
def test_it_fits_the_window_and_asks_for_nothing(page: Path, width: int, dark: bool) -> None:
    with Chromium() as browser:
        browser.open(page, width=width, dark=dark)
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert [url for url in browser.requests() if not url.startswith(("file:", "data:"))] == []
        assert browser.evaluate("document.querySelectorAll('.scene img').length") == 5
        browser.evaluate("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
        patience = time.monotonic() + 30
        while not browser.evaluate(SHOWN):
            assert time.monotonic() < patience
            time.sleep(0.05)
        assert browser.evaluate("document.querySelectorAll('svg.curve path.bold').length") == 6
        assert browser.evaluate(INSIDE)
        directions = "[...document.querySelectorAll('.scene .text')].map(p => getComputedStyle(p).direction).join()"
        assert browser.evaluate(directions) == "ltr,rtl"
        # Settings that differ come first, equal ones are folded away.
        assert browser.evaluate("document.querySelector('section').id") == "settings"
        assert browser.evaluate("document.querySelector('details').open") is False
        light = browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(251, 250, 247)"
        assert light is not dark
