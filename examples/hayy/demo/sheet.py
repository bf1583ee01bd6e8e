"""The sheet of `hayy.demo.eight`: pictures with who asked for what, as one HTML file and as its photograph."""

from __future__ import annotations

import base64
import html
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from hayy.demo.eight import Granted, Wish

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH, HEIGHT = 1000, 815

_STYLE = """
body { margin: 0; padding: 20px 24px; width: 952px; background: #fff; color: #1d2733;
  font: 14px/1.35 "DejaVu Sans", sans-serif }
h1 { font-size: 20px; margin: 0 0 2px }
header p { margin: 0 0 14px; color: #526170 }
main { display: grid; grid-template-columns: repeat(4, 226px); gap: 16px }
img { width: 226px; height: 226px; border-radius: 6px; display: block }
h2 { font-size: 15px; margin: 6px 0 1px }
.prompt { min-height: 57px; margin: 0 }
[dir=rtl] { font-family: "Noto Naskh Arabic", "Noto Sans Arabic", "DejaVu Sans", sans-serif; font-size: 16px }
.how { margin: 2px 0 0; font-size: 11px; color: #526170 }
.how b { color: #8a4b08; font-weight: 600 }
"""


def page(granted: Sequence[Granted], *, together: int, rows: int) -> str:
    """The sheet."""
    cards = "\n".join(_card(one) for one in granted)
    told = f"All eight shared {together} forwards of {rows} rows; then the shortest was done, and the others went on."
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Eight</title><style>{_STYLE}</style>'
        f"<header><h1>One batch: eight people ask for eight different things</h1><p>{told}</p></header>"
        f"<main>{cards}</main></html>"
    )


def _card(one: Granted) -> str:
    wish = one.wish
    way = "rtl" if "\u0600" <= wish.prompt[0] <= "\u06ff" else "ltr"
    picture = base64.b64encode(one.picture).decode()
    return (
        f'<section><img alt="" src="data:image/png;base64,{picture}"><div dir="{way}"><h2>{html.escape(wish.who)}</h2>'
        f'<p class="prompt">{html.escape(wish.prompt)}</p></div><p class="how">{_how(wish)}</p></section>'
    )


def _how(wish: Wish) -> str:
    adapters = " + ".join(f"{html.escape(name)} × {weight:g}" for name, weight in wish.adapters.items())
    settings = f"{wish.steps} steps, {html.escape(wish.scheduler)}, guidance {wish.guidance:g}, seed {wish.seed}"
    return f"<b>{adapters or 'the base alone'}</b><br>{settings}"


def photograph(sheet: Path) -> Path | None:
    """A PNG of the sheet beside it, of 256 colours; None where there is no Chromium."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        return None
    picture = sheet.with_suffix(".png")
    with tempfile.TemporaryDirectory(prefix="eight-") as profile:
        subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
             f"--user-data-dir={profile}", f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={picture}",
             sheet.as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
    with Image.open(picture) as opened:
        small = opened.convert("RGB").quantize(256)
    small.save(picture, optimize=True)
    return picture
