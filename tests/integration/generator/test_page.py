"""The page as a person uses it: a real browser before a real generator, in both languages, wide and narrow."""

import base64
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import Parse
from PIL import Image

from marsam.api.generator.v1 import generator_pb2, generator_pb2_grpc
from marsam.core.tokens import Principal, entry_of, new_token
from marsam.rpc.wire import channel
from tests.integration.evaluation.chromium import Chromium
from tests.integration.generator.support import generate, request, tiny_models

pytestmark = pytest.mark.slow

READY = "document.querySelectorAll('figure.ready').length === {}"
IDLE = "!document.getElementById('draw').disabled && document.getElementById('model').value === 'base'"
PIXELS = """[...document.querySelectorAll('figure img')].map(image => {
  const canvas = Object.assign(document.createElement('canvas'),
    {width: image.naturalWidth, height: image.naturalHeight});
  canvas.getContext('2d').drawImage(image, 0, 0);
  return canvas.toDataURL('image/png').split(',')[1];
})"""
HEIGHTS = """window.heights = [];
new MutationObserver(() => {
  for (const canvas of document.querySelectorAll('figure .canvas')) heights.push(Math.round(canvas.offsetHeight));
}).observe(document.getElementById('easel'), {subtree: true, childList: true, attributes: true});"""
WEIGHTS = """[...document.querySelectorAll('#uses input:checked')].map(
  box => box.dataset.adapter + box.closest('li').lastChild.value)"""
NAMED = {"button", "textbox", "combobox", "ComboBoxSelect", "slider", "checkbox", "spinbutton", "link", "tab", "image"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store of this page's own: it shows every adapter and every drawing that there is."""
    with tiny_models(tmp_path_factory.mktemp("page")) as url:
        yield url


class Generator:
    """A generator process with its page."""

    def __init__(self, store: str, cache: Path, **variables: str) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MARSAM_")}
        environment |= {"MARSAM_STORE": store, "MARSAM_CACHE": str(cache), "MARSAM_REST": "true", **variables}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "marsam_generator", "--until-stdin-closes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**environment, "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stdout is not None
        ready = json.loads(self.process.stdout.readline())
        self.http, self.grpc = str(ready["http"]), str(ready["grpc"])

    def close(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=30)


@pytest.fixture(scope="module")
def generator(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Generator]:
    found = Generator(store, tmp_path_factory.mktemp("cache"))
    yield found
    found.close()


@pytest.fixture
def browser(generator: Generator) -> Iterator[Chromium]:
    with Chromium() as found:
        visit(found, generator)
        yield found
        faults = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        said = [event for event in found.events if event.get("method") in faults]
        # The browser itself notes every answer that is an error: those are looked at where they are provoked.
        assert [one for one in said if "Failed to load resource" not in json.dumps(one)] == []


def visit(browser: Chromium, generator: Generator, *, width: int = 1280, language: str = "en") -> None:
    browser.visit(generator.http, width=width)
    browser.evaluate(f"localStorage.setItem('marsam.language', '{language}')")
    browser.visit(generator.http, width=width)
    browser.until(IDLE)
    browser.until("document.querySelectorAll('#uses input[type=checkbox]').length === 3")


def fill(browser: Chromium, **fields: object) -> None:
    for name, value in fields.items():
        browser.evaluate(f"document.getElementById('{name}').value = {json.dumps(value)}")


def use(browser: Chromium, **weights: float) -> None:
    """Take these adapters at these weights, and no other."""
    browser.evaluate("document.querySelectorAll('#uses input[type=checkbox]:checked').forEach(box => box.click())")
    for name, weight in weights.items():
        browser.evaluate(f"document.querySelector('[data-adapter={name}]').click()")
        browser.evaluate(
            f"(slider => {{ slider.value = {weight}; slider.dispatchEvent(new Event('input')); }})"
            f"(document.querySelector('[data-adapter={name}]').closest('li').querySelector('[type=range]'))"
        )


def draw(browser: Chromium, prompt: str, *, pictures: int = 2) -> None:
    """Type a prompt and draw with the keyboard alone."""
    browser.evaluate("document.getElementById('prompt').focus(); document.getElementById('prompt').select()")
    browser.call("Input.insertText", text=prompt)
    for kind in ("rawKeyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", modifiers=2,
                     windowsVirtualKeyCode=13)  # fmt: skip
    browser.until(READY.format(pictures))
    browser.until("!document.getElementById('draw').hidden")
    browser.until(f"document.querySelector('.card .text')?.textContent === {json.dumps(prompt)}")


def pixels(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.convert("RGB").tobytes()


def shown(browser: Chromium) -> list[bytes]:
    return [pixels(base64.b64decode(text)) for text in browser.evaluate(PIXELS)]


async def drawn(generator: Generator, asked: generator_pb2.GenerateRequest) -> list[bytes]:
    async with channel(generator.grpc) as opened:
        answer = await generate(generator_pb2_grpc.GeneratorServiceStub(opened), asked)
    return [pixels(data) for _, data in answer.images]


async def test_base_and_adapters_stand_side_by_side_at_one_seed(browser: Chromium, generator: Generator) -> None:
    use(browser, a=0.5, b=0.25)
    fill(browser, seed=7, steps=60, guidance=3, count=2)
    browser.evaluate(HEIGHTS)
    draw(browser, "a chef in a kitchen", pictures=4)
    # Live looks came before, and nothing moved when they and the pictures came.
    assert browser.evaluate("document.querySelectorAll('figure.looked').length") >= 2
    assert browser.evaluate("new Set(heights).size") == 1
    sides = browser.evaluate("[...document.querySelectorAll('figure')].map(f => f.dataset.side).join()")
    assert sides == "base,tuned,base,tuned"
    pictures = shown(browser)
    scheduler = browser.evaluate("document.getElementById('scheduler').value")
    asked: dict[str, Any] = {"prompt": "a chef in a kitchen", "steps": 60, "count": 2, "scheduler": scheduler}
    assert pictures[0::2] == await drawn(generator, request(**asked))
    assert pictures[1::2] == await drawn(generator, request(**asked, adapters={"a": 0.5, "b": 0.25}))
    # What the engine says of an adapter is read by whoever uses it.
    assert "nf4+dq" in browser.evaluate("document.getElementById('warnings').textContent")
    assert browser.evaluate("[...document.querySelectorAll('a.save')].every(a => a.href.startsWith('blob:'))")
    # Nothing came from elsewhere.
    assert {url.split("/")[2] for url in browser.requests() if url.startswith("http")} == {generator.http.split("/")[2]}


async def test_what_is_copied_draws_the_same_picture(browser: Chromium, generator: Generator, tmp_path: Path) -> None:
    prompt = "a 'quoted' $HOME; عالِمة في مختبر \"x\""
    use(browser, a=0.75)
    fill(browser, seed=11, steps=3, guidance=3, negative="blurry 'too'")
    draw(browser, prompt)
    _, tuned = shown(browser)
    endpoints = tmp_path / "endpoints.json"
    entry = {"grpc": generator.grpc, "http": generator.http, "pid": generator.process.pid}
    endpoints.write_text(json.dumps(dict.fromkeys(("dataset", "trainer", "generator"), entry)))
    environment = {**os.environ, "MARSAM_ENDPOINTS": str(endpoints)}
    texts = {}
    for tool in ("marsam", "python", "grpcurl"):
        browser.evaluate(f"document.getElementById('tab-{tool}').click()")
        texts[tool] = browser.evaluate("document.getElementById('code').textContent")
    for folder, command in (
        ("shell", ["bash", "-c", f'marsam() {{ "{sys.executable}" -m marsam.cli "$@"; }}\n{texts["marsam"]}']),
        ("python", [sys.executable, "-c", texts["python"]]),
    ):
        (tmp_path / folder).mkdir()
        subprocess.run(command, check=True, cwd=tmp_path / folder, env=environment, timeout=120)
        (picture,) = (tmp_path / folder).glob("*.png")
        assert pixels(picture.read_bytes()) == tuned
    # A shell's own reading of the line, with the port of gRPC and a request that Generate takes.
    read = subprocess.run(["bash", "-c", f'grpcurl() {{ printf "%s\\0" "$@"; }}\n{texts["grpcurl"]}'],
                          check=True, capture_output=True, timeout=20)  # fmt: skip
    words = read.stdout.decode().split("\0")
    assert words[-3:-1] == [generator.grpc, "marsam.api.generator.v1.GeneratorService/Generate"]
    assert await drawn(generator, Parse(words[words.index("-d") + 1], generator_pb2.GenerateRequest())) == [tuned]


def test_history_survives_a_reload_and_gives_everything_back(browser: Chromium, generator: Generator) -> None:
    prompt = "<img src=x onerror=alert(1)> kept"
    use(browser, a=0.5)
    fill(browser, seed=21, steps=2)
    draw(browser, prompt)
    before = shown(browser)
    visit(browser, generator)
    browser.until("document.querySelectorAll('.card').length > 0")
    card = "document.querySelector('.card')"
    assert browser.evaluate(f"{card}.querySelector('.text').textContent") == prompt
    browser.until(f"[...{card}.querySelectorAll('img')].filter(i => i.naturalWidth).length === 2")
    browser.evaluate(f"{card}.click()")
    browser.until(READY.format(2))
    assert shown(browser) == before
    values = "['prompt', 'seed', 'steps', 'model'].map(id => document.getElementById(id).value)"
    assert browser.evaluate(values) == [prompt, "21", "2", "base"]
    assert browser.evaluate(WEIGHTS) == ["a0.50"]


def test_a_seed_is_new_unless_it_was_typed_or_kept(browser: Chromium) -> None:
    seed = "document.getElementById('code').textContent.match(/--seed (\\d+)/)[1]"
    use(browser)
    fill(browser, seed=21, steps=1)
    draw(browser, "the first", pictures=1)
    fill(browser, seed=22)
    draw(browser, "typed", pictures=1)
    assert browser.evaluate(seed) == "22"
    draw(browser, "new", pictures=1)
    new = browser.evaluate(seed)
    assert new != "22"
    browser.evaluate("document.getElementById('lock').click()")
    draw(browser, "kept", pictures=1)
    assert browser.evaluate(seed) == new


@pytest.mark.parametrize("language", ["en", "ar"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_reads_in_both_languages(
    browser: Chromium, generator: Generator, language: str, width: int
) -> None:
    visit(browser, generator, width=width, language=language)
    assert browser.evaluate("document.documentElement.dir") == {"en": "ltr", "ar": "rtl"}[language]
    use(browser, a=1.0)
    fill(browser, steps=2)
    browser.evaluate("document.getElementById('more').open = true")
    draw(browser, "عالِمة عربية في مختبر مع اسم-طويل-جدا-لا-ينقسم-على-سطرين-ابدا-مهما-حدث")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    out = """[...document.querySelectorAll('main *')].filter(e => {
      const box = e.getBoundingClientRect();
      return box.width > 0 && (box.right > innerWidth + 1 || box.left < -1) && !e.closest('.scroll');
    }).map(e => e.tagName + '.' + e.className)"""
    assert browser.evaluate(out) == []
    # The prompt runs in its own direction, whatever the page's.
    assert browser.evaluate("getComputedStyle(document.getElementById('prompt')).direction") == "rtl"
    assert browser.evaluate("getComputedStyle(document.querySelector('.card .text')).direction") == "rtl"
    assert browser.evaluate("getComputedStyle(document.getElementById('code')).direction") == "ltr"
    empty = "[...document.querySelectorAll('[data-say]')].filter(e => !e.textContent).length"
    assert browser.evaluate(empty) == 0
    # The base stands first where reading begins.
    left = "['base', 'tuned'].map(s => document.querySelector(`figure[data-side=${s}]`).getBoundingClientRect().left)"
    base, tuned = browser.evaluate(left)
    assert (base < tuned) is (language == "en")


def test_everything_has_a_name_and_can_be_reached(browser: Chromium, generator: Generator) -> None:
    browser.evaluate("document.getElementById('more').open = true")
    use(browser, a=1.0)
    fill(browser, steps=2)
    draw(browser, "named")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    seen = {"button": 0, "textbox": 0}
    for node in nodes:
        role = str(node.get("role", {}).get("value"))
        if node.get("ignored") or role not in NAMED:
            continue
        seen[role] = seen.get(role, 0) + 1
        assert node.get("name", {}).get("value"), node
    assert seen["textbox"] >= 2 and seen["slider"] == 3 and seen["image"] >= 2 and seen["tab"] == 3
    # Arrows walk the tabs, as a screen reader's user expects.
    browser.evaluate("document.getElementById('tab-marsam').focus()")
    browser.call("Input.dispatchKeyEvent", type="rawKeyDown", key="ArrowRight", code="ArrowRight")
    assert browser.evaluate("document.activeElement.id") == "tab-python"
    assert "marsam.client" in browser.evaluate("document.getElementById('code').textContent")


async def test_stopping_frees_the_place(browser: Chromium, generator: Generator) -> None:
    use(browser, a=1.0)
    fill(browser, steps=250, count=16)
    browser.evaluate("document.getElementById('prompt').value = 'stopped by hand'")
    browser.evaluate("document.getElementById('form').requestSubmit()")
    browser.until("document.querySelectorAll('figure.looked').length > 1")
    browser.evaluate("document.getElementById('cancel').click()")
    browser.until("!document.getElementById('draw').hidden")
    assert browser.evaluate("document.querySelector('.state').textContent") == "Stopped"
    assert browser.evaluate("document.getElementById('problem').hidden")
    end, made = time.monotonic() + 30, []
    async with channel(generator.grpc) as opened:
        stub = generator_pb2_grpc.GeneratorServiceStub(opened)
        while len(made) < 2:
            assert time.monotonic() < end
            listed = await stub.ListGenerations(generator_pb2.ListGenerationsRequest(parent="projects/default"))
            made = [one for one in listed.generations if one.request.prompt == "stopped by hand"]
    assert {one.error_reason for one in made} == {"GENERATION_ABANDONED"}


def test_what_cannot_be_drawn_is_said_with_what_to_do(browser: Chromium) -> None:
    fill(browser, prompt="x", steps=2)
    browser.evaluate("document.getElementById('size').add(new Option('17 × 16', '17x16'))")
    fill(browser, size="17x16")
    browser.evaluate("document.getElementById('form').requestSubmit()")
    said = browser.until("!document.getElementById('problem').hidden && document.getElementById('problem').textContent")
    assert "multiple of" in said and "use 16 or 20" in said
    assert browser.evaluate("document.querySelector('.state').textContent") == "Not drawn"


def test_a_token_is_asked_for_and_kept_in_the_tab(store: str, tmp_path: Path) -> None:
    token, file = new_token(), tmp_path / "tokens.json"
    file.write_text(json.dumps({"tokens": [entry_of(Principal(name="maha"), token)]}))
    generator = Generator(store, tmp_path / "cache", MARSAM_TOKEN_FILE=str(file))
    try:
        with Chromium() as browser:
            browser.visit(generator.http, width=390)
            browser.until("document.getElementById('token-dialog').open")
            browser.evaluate("document.getElementById('token').focus()")
            browser.call("Input.insertText", text=token)
            browser.evaluate("document.querySelector('#token-form button').click()")
            browser.until(IDLE)
            fill(browser, steps=2)
            draw(browser, "behind a token")
            assert token not in browser.evaluate("document.documentElement.outerHTML")
            browser.evaluate("document.getElementById('tab-grpcurl').click()")
            assert "$MARSAM_TOKEN" in browser.evaluate("document.getElementById('code').textContent")
            browser.visit(generator.http, width=390)
            browser.until("document.querySelectorAll('.card').length > 0")
    finally:
        generator.close()
