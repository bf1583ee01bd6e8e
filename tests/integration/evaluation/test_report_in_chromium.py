"""The report as a person sees it: in a real browser, wide and narrow, light and dark."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from marsam_generator.evaluation.report import render
from PIL import Image

from tests.integration.evaluation.chromium import Chromium
from tests.unit.evaluation.synthetic import BASE, FORGETFUL, TUNED, results
from tests.unit.evaluation.synthetic_sources import sources

pytestmark = pytest.mark.slow

# What sticks out of the window, except inside boxes that are meant to scroll.
OVERFLOWING = """
[...document.querySelectorAll('body *')].filter(e => {
  const box = e.getBoundingClientRect();
  return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1) && !e.closest('.scroll');
}).map(e => e.tagName + '.' + e.className)
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with Chromium() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    found = {}
    for name, behaviours in {"two": (BASE, TUNED), "five": (BASE, TUNED, FORGETFUL, TUNED, BASE)}.items():
        numbers, files = results(*behaviours)
        found[name] = folder / f"{name}.html"
        found[name].write_text(render(numbers, sources(numbers, files)), "utf-8")
    return found


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["two", "five"])
def test_fits_its_window(browser: Chromium, pages: dict[str, Path], name: str, width: int) -> None:
    browser.open(pages[name], width=width)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(OVERFLOWING) == []


def test_asks_for_nothing_but_itself(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["two"], width=1280)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    browser.evaluate("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    assert {url.partition(":")[0] for url in browser.requests()} <= {"file", "data"}
    assert [url for url in browser.requests() if url.startswith("file:")] == [pages["two"].as_uri()]
    assert [e for e in browser.events if e.get("method") == "Log.entryAdded"] == []


def test_every_picture_is_drawn(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["two"], width=1280)
    browser.evaluate("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    broken = browser.call(
        "Runtime.evaluate",
        expression="Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))",
        awaitPromise=True,
        returnByValue=True,
    )
    assert set(broken["result"]["value"]) == {128}


def pixels(browser: Chromium) -> np.ndarray:
    with Image.open(io.BytesIO(browser.screenshot())) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.int16)


@pytest.mark.parametrize("width", [1280, 390])
def test_is_not_blank(browser: Chromium, pages: dict[str, Path], width: int) -> None:
    browser.open(pages["two"], width=width)
    seen = pixels(browser)
    assert seen.shape == (900, width, 3)
    assert len(np.unique(seen.reshape(-1, 3), axis=0)) > 200
    paper = (np.abs(seen - [0xFB, 0xFA, 0xF7]).max(axis=2) <= 1).mean()
    assert 0.3 < paper < 0.97


def test_follows_the_readers_scheme(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["two"], width=1280, dark=True)
    assert pixels(browser)[2, 2].tolist() == [0x16, 0x15, 0x13]
    browser.open(pages["two"], width=1280)
    assert pixels(browser)[2, 2].tolist() == [0xFB, 0xFA, 0xF7]


def test_arabic_is_laid_out_from_the_right(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["two"], width=390)
    told = browser.evaluate(
        "[...document.querySelectorAll('.scene .text[lang=ar]')].slice(0, 8).map(e =>"
        " [getComputedStyle(e).direction, getComputedStyle(e).textAlign])"
    )
    assert told == [["rtl", "start"]] * 8
    box, verdict = browser.evaluate(
        "(() => { const p = document.querySelector('.verdict .arabic'); const r = document.createRange();"
        " r.selectNodeContents(p); const last = [...r.getClientRects()].at(-1);"
        " return [p.getBoundingClientRect().right, last.right]; })()"
    )
    assert abs(box - verdict) < 3  # its last line ends at the left, so it begins at the right edge


def test_text_can_be_read_against_its_ground(browser: Chromium, pages: dict[str, Path]) -> None:
    for dark in (False, True):
        browser.open(pages["two"], width=1280, dark=dark)
        names = ("--ink", "--soft", "--before", "--after", "--good", "--bad", "--open")
        wanted = [*names, "--paper", "--card"]
        style = "getComputedStyle(document.documentElement)"
        read = browser.evaluate(f"Object.fromEntries({wanted}.map(n => [n, {style}.getPropertyValue(n).trim()]))")
        for name in names:
            for ground in ("--paper", "--card"):
                assert contrast(read[name], read[ground]) >= 4.5, (name, ground, dark)


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two #rrggbb colours."""

    def luminance(colour: str) -> float:
        value = colour.removeprefix("#")
        value = "".join(c * 2 for c in value) if len(value) == 3 else value
        parts = [int(value[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
