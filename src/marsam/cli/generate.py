"""`marsam generate`"""

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from marsam.cli import console
from marsam.cli.again import asked, changed
from marsam.cli.pictures import kept, print_pictures, show_preview
from marsam.cli.plain import plain
from marsam.cli.session import Json, pairs, run, says_missing
from marsam.cli.watching import Bar
from marsam.client import Accepted, AsyncMarsam, Done, Event, Image, Preview, Progress, short
from marsam.core.errors import Invalid, MarsamError, did_you_mean, unknown_name


def generate(
    context: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="What to draw, in any language the base reads.")] = None,
    model: Annotated[str, typer.Option(help="Base or fully tuned model.")] = "",
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
    again: Annotated[Path | None, typer.Option("--from", help="Picture to make again; options go before it.")] = None,
    init: Annotated[Path | None, typer.Option(help="Picture to start from.")] = None,
    mask: Annotated[Path | None, typer.Option(help="What of --init is drawn anew: white.")] = None,
    preview: Annotated[int | None, typer.Option(metavar="STEPS", help="Write preview-N.jpg every so often.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="strength, format, quality, exact, …"),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Print its name and leave: see generations.")] = False,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures.")] = Path(),
    as_json: Json = False,
) -> None:
    """Draw pictures; what you leave out is the model's own. Ctrl-C cancels."""
    if again is None and (prompt is None or not model):
        raise typer.BadParameter(f"{'a PROMPT' if prompt is None else '--model'} is missing (or --from a picture)")

    async def work(marsam: AsyncMarsam) -> dict[str, Any]:
        starts = [await marsam.generation.upload(one) if one else "" for one in (init, mask)]
        said = {
            "model": model, "adapters": _adapters(adapter or []), "negative_prompt": negative,
            "scheduler": scheduler, "init_image": starts[0], "mask_image": starts[1],
        }  # fmt: skip
        numbers = {"seed": seed, "steps": steps, "guidance": guidance, "width": width, "height": height}
        given = {key: value for key, value in {"prompt": prompt, **numbers}.items() if value is not None}
        words = {key: value for key, value in said.items() if value}
        arguments, origin = asked(again, {**words, **given, **_settings(changes or [])})
        answer: dict[str, Any] = {"generation": "", "warnings": [], "images": [], "request": None, "timings": None}
        with Bar("waiting", quiet=as_json) as bar:
            for remark in origin.remarks if origin else ():
                answer["warnings"].append(remark)
                bar.say(f"! {remark}")
            events = marsam.generation.generate(**arguments, count=count, preview_every=preview, detach=detach)
            async for event in _known(marsam, events):
                match event:
                    case Accepted():
                        answer["generation"] = event.name
                        answer["warnings"] += event.warnings
                        answer["request"] = plain(event.request)
                        if event.queue_position:
                            bar.show(0, 0, f"place {event.queue_position} in the queue")
                        for warning in event.warnings:
                            bar.say(f"! {warning}")
                        if detach:
                            break
                    case Progress():
                        left = f", {console.span(event.eta_seconds)} left" if event.eta_seconds else ""
                        bar.show(event.step, event.steps, f"step {event.step}/{event.steps}{left}", name="drawing")
                    case Preview():
                        show_preview(out, event)
                    case Image():
                        answer["images"].append(kept(out, arguments["prompt"], event))
                    case Done():
                        answer["timings"] = {
                            "queued_seconds": event.queued_seconds,
                            "denoise_seconds": event.denoise_seconds,
                            "decode_seconds": event.decode_seconds,
                            "total_seconds": event.total_seconds,
                            "encode_seconds": event.encode_seconds,
                        }
            if answer["timings"]:
                for remark in await changed(marsam, origin, answer["generation"]):
                    answer["warnings"].append(remark)
                    bar.say(f"! {remark}")
        return answer

    answer = run(context, work, as_json=as_json)
    if as_json:
        console.print_json(answer)
        return
    print_pictures(answer["images"])
    if detach:
        console.out().print(answer["generation"], markup=False)
        console.note(f"it goes on; its pictures: marsam generations fetch {short(answer['generation'])}")
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


_SETTINGS: Mapping[str, Callable[[str], Any]] = {
    "strength": float,
    "format": str,
    "quality": int,
    "exact": lambda text: {"true": True, "false": False}[text],
    "priority": int,
    "tenant": str,
    "preview_side": int,
}


def _settings(texts: list[str]) -> dict[str, Any]:
    """What `--set` says, by the SDK's names."""
    found = {}
    for key, text in pairs(texts, option="--set").items():
        if key not in _SETTINGS:
            raise unknown_name("setting", key, tuple(_SETTINGS), field="--set")
        try:
            found[key] = _SETTINGS[key](text)
        except (ValueError, KeyError) as error:
            raise Invalid(f"{key} cannot be '{text}'", field="--set", reason="OPTION_MALFORMED") from error
    return found


def _adapters(texts: list[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for text in texts:
        name, equals, weight = text.partition("=")
        if name in found:
            raise Invalid(f"adapter '{name}' is given twice", field="--adapter", reason="ADAPTER_TWICE",
                          remedy="add the weights")  # fmt: skip
        try:
            found[name] = float(weight) if equals else 1.0
        except ValueError as error:
            raise Invalid(
                f"the weight of adapter '{name}' must be a number, got '{weight}'", field="--adapter"
            ) from error
    return found
