"""`marsam generate`"""

import re
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import typer

from marsam.cli import console
from marsam.cli.plain import plain
from marsam.cli.session import Json, run, says_missing
from marsam.cli.watching import Bar
from marsam.client import Accepted, AsyncMarsam, Done, Event, Image, Progress, short
from marsam.core.errors import Exhausted, Exists, Invalid, MarsamError, did_you_mean

_SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}


def generate(
    context: typer.Context,
    prompt: Annotated[str, typer.Argument(help="What to draw, in any language the base reads.")],
    model: Annotated[str, typer.Option(help="Base or fully tuned model.")],
    adapter: Annotated[
        list[str] | None, typer.Option(metavar="NAME[=WEIGHT]", help="Adapter; may be given several times.")
    ] = None,
    negative: Annotated[str, typer.Option(help="What to keep out.")] = "",
    seed: Annotated[int | None, typer.Option(help="Same seed, same picture.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", help="Pictures; seeds count up.")] = 1,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="How closely to follow the prompt.")] = None,
    scheduler: Annotated[str, typer.Option(help="ddim, dpm++, euler, euler_a, …")] = "",
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path(),
    as_json: Json = False,
) -> None:
    """Draw pictures. What you leave out is the model's own default; Ctrl-C cancels."""

    async def work(marsam: AsyncMarsam) -> dict[str, Any]:
        answer: dict[str, Any] = {"generation": "", "warnings": [], "images": [], "request": None, "timings": None}
        with Bar("waiting", quiet=as_json) as bar:
            events = marsam.generation.generate(
                prompt,
                model=model,
                adapters=_adapters(adapter or []),
                negative_prompt=negative,
                seed=seed,
                count=count,
                steps=steps,
                guidance=guidance,
                scheduler=scheduler,
                width=width,
                height=height,
            )
            async for event in _known(marsam, events):
                match event:
                    case Accepted():
                        answer |= {"generation": event.name, "warnings": list(event.warnings)}
                        answer["request"] = plain(event.request)
                        if event.queue_position:
                            bar.show(0, 0, f"place {event.queue_position} in the queue")
                        for warning in event.warnings:
                            bar.say(f"! {warning}")
                    case Progress():
                        bar.show(event.step, event.steps, f"step {event.step}/{event.steps}", name="drawing")
                    case Image():
                        path = _save(out, prompt, event)
                        size = {"width": event.width, "height": event.height}
                        answer["images"].append({"path": str(path), "seed": event.seed, "digest": event.digest, **size})
                    case Done():
                        answer["timings"] = {
                            "queued_seconds": event.queued_seconds,
                            "denoise_seconds": event.denoise_seconds,
                            "decode_seconds": event.decode_seconds,
                            "total_seconds": event.total_seconds,
                        }
        return answer

    answer = run(context, work, as_json=as_json)
    if as_json:
        console.print_json(answer)
        return
    for image in answer["images"]:
        console.out().print(f"{image['path']}  seed {image['seed']}", markup=False)
    if answer["timings"]:
        timings = answer["timings"]
        seconds = console.span(timings["total_seconds"])
        console.note(
            f"{short(answer['generation'])}: {seconds}, of which {console.span(timings['queued_seconds'])} queued"
        )


async def _known(marsam: AsyncMarsam, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
    """The same events; an unknown model is answered with the nearest known ones."""
    try:
        async for event in events:
            yield event
    except MarsamError as error:
        if not error.remedy and says_missing(error):
            models = [short(model.name) for model in await marsam.models.list()]
            error.remedy = did_you_mean(short(error.resource or ""), models)
            error.remedy = error.remedy or "there are no models yet: marsam models import FOLDER NAME"
        raise


def _adapters(texts: list[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts:
        name, equals, weight = text.partition("=")
        try:
            found[name] = float(weight) if equals else 1.0
        except ValueError as error:
            raise Invalid(
                f"the weight of adapter '{name}' must be a number, got '{weight}'", field="--adapter"
            ) from error
    return found


def _save(folder: Path, prompt: str, image: Image) -> Path:
    """Writes a picture under a name that says what it is; never over another one."""
    letters = "".join(c for c in prompt.lower() if unicodedata.category(c) != "Mn")  # vowel marks are not letters
    words = re.sub(r"\W+", "-", letters).strip("-")[:48] or "picture"
    suffix = _SUFFIXES.get(image.media_type, ".png")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(1000):
            path = folder / f"{words}-{image.seed}{f'-{number}' if number else ''}{suffix}"
            try:
                with path.open("xb") as file:
                    file.write(image.data)
            except FileExistsError:
                if path.read_bytes() == image.data:
                    return path
                continue
            return path
    except OSError as error:
        raise Exhausted(f"cannot write to {folder}: {error.strerror}", reason="DISK_WRITE_FAILED") from error
    raise Exists(f"{folder} holds a thousand pictures of this prompt and seed already")
