"""`python -m hayy.demo`: the whole story on this machine."""

import argparse
import asyncio
import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console

from hayy.demo import platform
from hayy.demo.screen import Screen
from hayy.demo.story import BASE, DEMO, FULL, JUDGE, SUITE, Options, tell
from marsam.client import AsyncMarsam
from marsam.core.errors import MarsamError

BUCKET = "marsam"


def parse(arguments: list[str]) -> tuple[Options, str]:
    """What to tell, and over which store."""
    parser = argparse.ArgumentParser(prog="python -m hayy.demo", description=__doc__)
    parser.add_argument("--full", action="store_true", help="raw and balanced sets by every method, side by side")
    parser.add_argument("--home", type=Path, default=Path(".demo"), help="folder for the store and the report")
    parser.add_argument(
        "--store", choices=("folder", "s3"), default="folder", help="s3: a SeaweedFS that it starts itself"
    )
    parser.add_argument("--base", default=str(BASE), help="folder, .safetensors file or hub id (default: Hayy's base)")
    parser.add_argument(
        "--accept-licence", default="", help="licence of that base, where it restricts and you accept it"
    )
    parser.add_argument("--judge", type=Path, default=JUDGE, help="classifier folder (default: Hayy's judge)")
    parser.add_argument("--steps", type=int, help="optimiser steps of every run (default: the measured recipe)")
    parser.add_argument("--suite", type=Path, default=SUITE, help="prompts and expectations (default: Hayy's)")
    chosen = parser.parse_args(arguments)
    options = Options(
        home=chosen.home.absolute(),
        base=chosen.base,
        accept_licence=chosen.accept_licence,
        judge=chosen.judge,
        variants=FULL if chosen.full else DEMO,
        steps=chosen.steps,
        suite=chosen.suite,
    )
    return options, chosen.store


@contextlib.contextmanager
def objects(store: str, options: Options, screen: Screen) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Where objects are kept while the block runs: (URL, '' for the folder of the services; how it is reached)."""
    if store == "folder":
        yield "", {}
        return
    from hayy.demo import seaweed

    screen.note("Starting SeaweedFS")
    with seaweed.running(options.home / "seaweedfs") as server:
        server.make_bucket(BUCKET)
        yield f"s3://{BUCKET}/demo", server.environment


async def run(options: Options, screen: Screen, url: str, environment: Mapping[str, str]) -> Path:
    screen.note("Starting the three services")
    home = options.home / ("store-s3" if url else "store")
    async with (
        platform.running(home, objects=url, environment=environment) as endpoints,
        AsyncMarsam(endpoints) as marsam,
    ):
        try:
            return await tell(marsam, options, screen)
        finally:
            screen.note("Stopping the services")


def main() -> int:
    console = Console()
    options, store = parse(sys.argv[1:])
    started = time.monotonic()
    try:
        options.home.mkdir(parents=True, exist_ok=True)
        screen = Screen(console)
        with objects(store, options, screen) as (url, environment):
            report = asyncio.run(run(options, screen, url, environment))
    except KeyboardInterrupt:
        console.print("\nStopped. Nothing is lost: the same command goes on where this one stopped.")
        return 130
    except MarsamError as error:
        console.print(f"[red]{error.message}[/]", highlight=False)
        if error.remedy:
            console.print(error.remedy, highlight=False)
        return 1
    console.print(f"\nReport after {time.monotonic() - started:.0f} s: {report.as_uri()}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
