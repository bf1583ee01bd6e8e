"""`python -m hayy.demo`: the whole story on this machine."""

import argparse
import asyncio
import sys
import time
from pathlib import Path

from rich.console import Console

from hayy.demo import platform
from hayy.demo.screen import Screen
from hayy.demo.story import BASE, DEMO, FULL, JUDGE, SUITE, Options, tell
from marsam.client import AsyncMarsam
from marsam.core.errors import MarsamError


def parse(arguments: list[str]) -> Options:
    parser = argparse.ArgumentParser(prog="python -m hayy.demo", description=__doc__)
    parser.add_argument("--full", action="store_true", help="raw and balanced sets by every method, side by side")
    parser.add_argument("--home", type=Path, default=Path(".demo"), help="folder for the store and the report")
    parser.add_argument("--base", default=str(BASE), help="folder, .safetensors file or hub id (default: Hayy's base)")
    parser.add_argument("--judge", type=Path, default=JUDGE, help="classifier folder (default: Hayy's judge)")
    parser.add_argument("--steps", type=int, help="optimiser steps of every run (default: the measured recipe)")
    parser.add_argument("--suite", type=Path, default=SUITE, help="prompts and expectations (default: Hayy's)")
    chosen = parser.parse_args(arguments)
    return Options(
        home=chosen.home.absolute(),
        base=chosen.base,
        judge=chosen.judge,
        variants=FULL if chosen.full else DEMO,
        steps=chosen.steps,
        suite=chosen.suite,
    )


async def run(options: Options, console: Console) -> Path:
    options.home.mkdir(parents=True, exist_ok=True)
    screen = Screen(console)
    screen.note("Starting the three services")
    async with platform.running(options.home / "store") as endpoints, AsyncMarsam(endpoints) as marsam:
        try:
            return await tell(marsam, options, screen)
        finally:
            screen.note("Stopping the services")


def main() -> int:
    console = Console()
    options = parse(sys.argv[1:])
    started = time.monotonic()
    try:
        report = asyncio.run(run(options, console))
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
