"""The page of a comparison: one HTML file."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from marsam import pages
from marsam.cli.compare.gather import Trial
from marsam.cli.compare.plots import plots
from marsam.cli.compare.tables import differing, outcomes, same
from marsam.client import short

_ARABIC = re.compile("[\u0600-\u06ff]")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One prompt at one seed: a picture of each run as a data URI, '' where it drew none."""

    prompt: str
    seed: int | None
    size: str
    pictures: tuple[str, ...]
    language: str

    @property
    def shared(self) -> int:
        """How many runs drew it."""
        return sum(1 for picture in self.pictures if picture)


def render(trials: Sequence[Trial]) -> str:
    """The page as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["short"] = short
    return environment.from_string(_resource("page.html.j2")).render(
        style=Markup(pages.style() + _resource("page.css")),
        trials=trials,
        differing=differing(trials),
        same=same(trials),
        outcomes=outcomes(trials),
        plots=plots(trials),
        scenes=scenes(trials),
    )


def scenes(trials: Sequence[Trial]) -> list[Scene]:
    """The pictures, those first that most runs drew from the same words, seed and size."""
    rows: dict[tuple[str, int | None, str, int], list[str]] = {}
    for number, trial in enumerate(trials):
        for place, one in enumerate(trial.samples):
            # Without a seed there is nothing to set it beside.
            key = (one.prompt, one.seed, one.size, -1 if one.seed is not None else number * 1000 + place)
            found = rows.setdefault(key, [""] * len(trials))
            found[number] = f"data:image/png;base64,{base64.b64encode(one.picture).decode('ascii')}"
    found_scenes = [
        Scene(prompt=prompt, seed=seed, size=size, pictures=tuple(pictures), language=_language(prompt))
        for (prompt, seed, size, _), pictures in rows.items()
    ]
    return sorted(found_scenes, key=lambda scene: -scene.shared)


def _language(text: str) -> str:
    """The language that decides the letters' font; '' leaves it to the reader's program."""
    return "ar" if _ARABIC.search(text) else ""


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")
