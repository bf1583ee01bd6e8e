"""The report as a document: whole, self-contained, honest about itself."""

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
from marsam_generator.evaluation.report import render
from marsam_generator.evaluation.results import Results
from PIL import Image

from marsam.core import records
from tests.unit.evaluation.synthetic import BASE, FORGETFUL, TUNED, results
from tests.unit.evaluation.synthetic_sources import sources

VOID = {"meta", "img", "br", "link", "hr", "input"}
SHAPES = {"line", "rect", "circle", "path"}


class Page(HTMLParser):
    """Keeps every element with its attributes and the text inside the innermost one; complains about bad nesting."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[tuple[str, ...], dict[str, str], str]] = []
        self._open: list[tuple[str, dict[str, str]]] = []
        self.feed(text)
        self.close()
        assert self._open == [], f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self._open.append((tag, attributes))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SHAPES, f"<{tag}/> is no HTML"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1][0] == tag, f"</{tag}> closes <{self._open[-1][0]}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if data.strip() and self._open:
            language: dict[str, str] = {}
            for _, attributes in self._open:
                language |= {name: attributes[name] for name in ("lang", "dir") if name in attributes}
            self.texts.append((tuple(tag for tag, _ in self._open), language, data.strip()))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def made(*behaviours: dict[str, float]) -> tuple[Results, str]:
    found, files = results(*behaviours)
    return found, render(found, sources(found, files))


@pytest.fixture(scope="module")
def tuned() -> tuple[Results, str]:
    return made(dict(BASE), dict(TUNED))


def test_is_well_formed_and_opens_with_the_verdict(tuned: tuple[Results, str]) -> None:
    found, text = tuned
    page = Page(text)
    assert text.startswith("<!doctype html>")
    first = next(words for tags, _, words in page.texts if "h1" in tags)
    assert first == found.verdict.sentence["en"]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for link in page.all("a"):
        assert link["href"].startswith("data:") or link["href"][1:] in ids


def test_loads_nothing_and_runs_nothing(tuned: tuple[Results, str]) -> None:
    _, text = tuned
    page = Page(text)
    assert not re.search(r"https?://|//[a-z0-9.-]+\.[a-z]{2,}/|url\(|@import", text)
    for tag in ("script", "link", "iframe", "object", "embed", "form", "base"):
        assert page.all(tag) == []
    for _, attributes in page.elements:
        for name in ("src", "srcset", "poster", "data", "xlink:href", "action"):
            assert attributes.get(name, "data:").startswith("data:")
        assert not any(name.startswith("on") for name in attributes)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_arabic_is_marked_and_runs_from_the_right(tuned: tuple[Results, str]) -> None:
    found, text = tuned
    page = Page(text)
    arabic = [(language, words) for _, language, words in page.texts if re.search(r"[\u0600-\u06ff]{2}", words)]
    assert len(arabic) > 100
    for language, words in arabic:
        assert (language["lang"], language["dir"]) == ("ar", "rtl"), words
    assert found.verdict.sentence["ar"] in [words for _, words in arabic]
    english = [language for tags, language, words in page.texts if re.match(r"an? \w+ scientist", words)]
    assert english and all(language == {"lang": "en", "dir": "ltr"} for language in english)
    # Only logical directions in the style: what is laid out by "left" does not turn around.
    style = text[text.index("<style>") : text.index("</style>")]
    assert not re.search(r"\b(margin|padding|border)-(left|right)\b|text-align:\s*(left|right)", style)


def test_every_picture_is_there_labelled_and_real(tuned: tuple[Results, str]) -> None:
    found, text = tuned
    page = Page(text)
    images = page.all("img")
    assert len(images) == len(found.pictures) + 12  # six pairs open the page
    for image in images:
        assert image["alt"].startswith("Generated picture by ")
        assert "the judge says: " in image["alt"]
    tags = [words for _, _, words in page.texts if words in ("before · generated", "after · generated")]
    assert len(tags) == len(images)
    data = base64.b64decode(images[0]["src"].removeprefix("data:image/webp;base64,"))
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.size) == ("WEBP", (128, 128))


def test_every_number_can_be_taken_away(tuned: tuple[Results, str]) -> None:
    found, text = tuned
    links = {link["download"]: link["href"] for link in Page(text).all("a") if "download" in link}
    numbers = base64.b64decode(links["results.json"].removeprefix("data:application/json;base64,"))
    assert records.load(Results, numbers) == found
    assert json.loads(numbers)["schema"] == "marsam.evaluation-results/1"
    table = base64.b64decode(links["results.csv"].removeprefix("data:text/csv;charset=utf-8;base64,"))
    rows = list(csv.DictReader(io.StringIO(table.decode("utf-8-sig"))))
    assert len(rows) == len(found.changes)
    change = found.change(1, "tuned_roles", "en", "as_asked")
    assert change is not None
    row = next(r for r in rows if (r["group"], r["measure"], r["language"]) == ("Roles it was tuned on",
               "all as asked", "en"))  # fmt: skip
    assert int(row["n"]) == change.n
    assert row["change"] == f"+{round(change.difference * 100)}"


def test_tells_where_everything_comes_from(tuned: tuple[Results, str]) -> None:
    found, text = tuned
    words = " ".join(text for _, _, text in Page(text).texts)
    for digest in (found.suite_digest, found.judge_digest):
        assert digest in words
    assert "projects/demo/datasets/hayy/versions/v1" in words
    assert "seed 7" in words
    for said in ("CC0-1.0", "consent: none depicted", "left out: exact duplicate", "role × place", "0.31",
                 "1\u202fmin 37\u202fs", "612\u202fMB", "2.3\u202fMB", "marsam 0.1.0 · cpu · float32"):  # fmt: skip
        assert said in words, said
    assert "loss 0." in text


def test_says_how_far_to_trust_it(tuned: tuple[Results, str]) -> None:
    _, text = tuned
    words = " ".join(text for _, _, text in Page(text).texts)
    assert "What this does not show" in words
    assert "The raw set ties each role to one place; tuned on it, this base did worse." in words
    assert "99.0\u202f% of 600 (97.8–99.5)" in words  # the judge on reconstructions of places, with its interval
    assert "no : the suite does not ask about it" in words.replace("✕ no", "no")
    assert "no number here certifies a culture" in words


def test_outcomes_are_said_in_words_and_signs() -> None:
    _, text = made(dict(BASE), dict(FORGETFUL))
    words = [text for _, _, text in Page(text).texts]
    assert words.count("lost") >= 2
    assert "✕" in words
    assert "Improved, with losses" in words


def test_several_models_stand_side_by_side() -> None:
    found, text = made(dict(BASE), dict(FORGETFUL), dict(TUNED), dict(BASE))
    page = Page(text)
    words = [text for _, _, text in page.texts]
    assert "Side by side" in words
    for column in ("Weights at rest", "Peak memory", "Training time", "File"):
        assert column in words
    assert "6.1\u202fMB" in words  # the quantised model's weights at rest
    chosen = [attributes for attributes in page.all("tr") if attributes.get("class") == "chosen"]
    assert len(chosen) == 1
    assert found.verdict.sentence["en"].startswith("Of 3 tuned models, balanced-qlora did best")


def test_hostile_words_stay_words() -> None:
    found, files = results(BASE, TUNED)
    prompt = found.suite.prompts[0]
    evil = records.from_plain(type(prompt), {**records.to_plain(prompt), "text": {"en": "<script>alert(1)</script>",
                              "ar": '"><img src=x onerror=alert(1)>'}})  # fmt: skip
    suite = records.from_plain(type(found.suite), {**records.to_plain(found.suite),
                               "prompts": [records.to_plain(p) for p in (evil, *found.suite.prompts[1:])]})  # fmt: skip
    plain = {**records.to_plain(found), "suite": records.to_plain(suite)}
    text = render(records.from_plain(Results, plain), sources(found, files))
    page = Page(text)
    assert page.all("script") == []
    assert "<script>alert(1)</script>" in [words for _, _, words in page.texts]
    assert all("onerror" not in attributes for attributes in page.all("img"))
