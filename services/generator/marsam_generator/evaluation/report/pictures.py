"""The pictures of a report: which are shown, how they are embedded, and what the judge says under each."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from marsam_generator.evaluation.judges import UNSURE
from marsam_generator.evaluation.report.formats import words
from marsam_generator.evaluation.results import Picture, Results
from marsam_generator.evaluation.scoring import STEREOTYPE, score
from marsam_generator.evaluation.suites import Group, Prompt

MAX_EMBEDDED = 1600
SHOWN_AT_ONCE = 8
LEADING = 6
SIDE = 256


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One embedded picture. `verdict` is "right", "wrong" or "unasked"; `says` what the judge saw, in words."""

    source: str
    model: int
    title: str
    seed: int
    verdict: str
    says: str
    alt: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One language of a scene: its prompt, and every model's picture at one seed."""

    language: str
    text: str
    shots: tuple[Shot, ...]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One prompt at one seed, in every language."""

    prompt: str
    seed: int
    rows: tuple[Row, ...]


class Album:
    """Turns pictures into scenes. Nothing is picked by hand: prompts and seeds come in the order of the suite."""

    def __init__(self, results: Results, pictures: Mapping[str, bytes]) -> None:
        self._results = results
        self._bytes = pictures
        self._by_place = {(p.prompt, p.language, p.seed, p.model): p for p in results.pictures}
        self._sources: dict[str, str] = {}
        scenes = sum(len(prompt.seeds) for prompt in results.suite.prompts)
        self._every_seed = scenes * len(results.suite.languages) * len(results.models) <= MAX_EMBEDDED
        self.complete = self._every_seed

    def scenes(self, group: Group) -> list[Scene]:
        """The scenes of a group: every prompt at its first seed, then the further seeds where there is room."""
        prompts = [p for p in self._results.suite.prompts if p.group == group.name]
        depth = max((len(p.seeds) for p in prompts), default=0) if self._every_seed else 1
        found = [self._scene(p, p.seeds[i]) for i in range(depth) for p in prompts if i < len(p.seeds)]
        return [scene for scene in found if scene is not None]

    def leading(self, groups: Sequence[Group], model: int) -> list[tuple[str, str, Shot, Shot]]:
        """The pairs that open the report: (language, prompt, before, after), spread evenly over the learning groups."""
        prompts = [p for g in groups for p in self._results.suite.prompts if p.group == g.name]
        if not prompts:
            return []
        stride = max(1, len(prompts) // LEADING)
        languages = self._results.suite.languages
        pairs = []
        for i, prompt in enumerate(prompts[::stride][:LEADING]):
            language = languages[i % len(languages)]
            shots = [self._shot(prompt, language, prompt.seeds[0], m) for m in (0, model)]
            if shots[0] is not None and shots[1] is not None:
                pairs.append((language, prompt.text[language], shots[0], shots[1]))
        return pairs

    def _scene(self, prompt: Prompt, seed: int) -> Scene | None:
        rows = []
        for language in self._results.suite.languages:
            shots = [self._shot(prompt, language, seed, m) for m in range(len(self._results.models))]
            whole = tuple(shot for shot in shots if shot is not None)
            if len(whole) == len(shots):
                rows.append(Row(language=language, text=prompt.text[language], shots=whole))
        return Scene(prompt=prompt.id, seed=seed + self._results.seed_offset, rows=tuple(rows)) if rows else None

    def _shot(self, prompt: Prompt, language: str, seed: int, model: int) -> Shot | None:
        picture = self._by_place.get((prompt.id, language, seed, model))
        if picture is None or picture.digest not in self._bytes:
            return None
        verdict, says = describe(prompt, picture, self._results.trusted)
        title = self._results.model_titles[model]
        return Shot(
            source=self._embed(picture.digest),
            model=model,
            title=title,
            seed=seed + self._results.seed_offset,
            verdict=verdict,
            says=says,
            alt=f"Generated picture by {title} for “{prompt.text[language]}”; the judge says: {says}",
        )

    def _embed(self, digest: str) -> str:
        if digest not in self._sources:
            encoded = base64.b64encode(self._bytes[digest]).decode("ascii")
            self._sources[digest] = f"data:image/webp;base64,{encoded}"
        return self._sources[digest]


def describe(prompt: Prompt, picture: Picture, trusted: Sequence[str]) -> tuple[str, str]:
    """Return the verdict on one picture and what is wrong with it (or "as asked") in words."""
    seen = {name: answer.value for name, answer in picture.answers.items()}
    answers = score(prompt, seen, trusted)
    if not answers:
        return "right", "not judged"
    wrong = [
        ("cannot tell " + words(name)) if seen[name] == UNSURE else words(seen[name])
        for name in trusted
        if name in seen
        and (
            (name in prompt.expect and seen[name] not in prompt.expect[name])
            or seen[name] in prompt.forbid.get(name, ())
        )
    ]
    if not wrong:
        return "right", "as asked"
    return ("unasked" if answers.get(STEREOTYPE) else "wrong"), ", ".join(wrong)


def thumbnail(picture: Image.Image) -> bytes:
    """Return a picture as WebP of at most `SIDE` pixels: a fraction of the PNG, and nothing to be seen of it."""
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "WEBP", quality=88, method=4)
    return out.getvalue()
