"""What every command shares: its options, its client, and how it ends."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from marsam.cli import console, exits
from marsam.client import AsyncMarsam, Credentials, find_credentials, short
from marsam.client import endpoints as finding
from marsam.core.errors import Internal, Invalid, MarsamError, Missing, Unavailable, did_you_mean

T = TypeVar("T")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options before the command."""

    project: str
    endpoints: Path | None
    token: str | None

    def credentials(self) -> Credentials:
        """The token of the option, else that of the environment; certificates of the environment. Raises Invalid."""
        env = dict(os.environ)
        if self.token is not None:
            env = {**env, "MARSAM_TOKEN": self.token, "MARSAM_TOKEN_FILE": ""}
        return find_credentials(env=env)


def options(context: typer.Context) -> Options:
    """The options that the callback of the root command left behind."""
    found = context.find_object(Options)
    assert found is not None
    return found


class Detached(Exception):  # not a failure: the reader walked away
    """Ctrl-C on a watch; the message says how to return."""


def run(
    context: typer.Context,
    work: Callable[[AsyncMarsam], Coroutine[Any, Any, T]],
    *,
    as_json: bool,
) -> T:
    """Runs `work` with a client. Every failure ends the program with one message and its exit code."""
    chosen = options(context)

    async def main() -> T:
        where = finding.read(chosen.endpoints) if chosen.endpoints is not None else finding.find()
        async with AsyncMarsam(where, project=chosen.project, credentials=chosen.credentials()) as marsam:
            try:
                return await work(marsam)
            except Unavailable as error:
                raise await marsam.explain(error) from error

    return guarded(main, as_json=as_json)


def guarded(main: Callable[[], Coroutine[Any, Any, T]], *, as_json: bool) -> T:
    """Runs a coroutine to its end and turns what it raises into an exit."""
    try:
        return asyncio.run(main())
    except MarsamError as error:
        if isinstance(error, Unavailable) and not error.remedy:
            error.remedy = "is it up? 'marsam doctor' looks, 'marsam up' starts it"
        console.fail(error, as_json=as_json)
    except (typer.Exit, typer.Abort):
        raise
    except Detached as detached:
        console.note(str(detached))
        raise typer.Exit(exits.INTERRUPTED) from None
    except KeyboardInterrupt:
        console.note("interrupted")
        raise typer.Exit(exits.INTERRUPTED) from None
    except Exception as error:
        _bug(error, as_json=as_json)


def _bug(error: Exception, *, as_json: bool) -> NoReturn:
    if os.environ.get("MARSAM_DEBUG"):
        raise error
    fault = Internal(
        f"this is a bug in marsam: {type(error).__name__}: {error}",
        reason="CLI_BUG",
        remedy="report it; MARSAM_DEBUG=1 prints the traceback",
    )
    console.fail(fault, as_json=as_json)


async def known(work: Awaitable[T], *, kind: str, name: str, others: Callable[[], Awaitable[Iterable[str]]]) -> T:
    """Awaits `work`; when `name` is not there, adds the nearest names of the same kind to the error.

    `others` gives resource names. The service's own remedy is kept when it has one.
    """
    try:
        return await work
    except MarsamError as error:
        if error.remedy or not says_missing(error):
            raise
        names = [short(other) for other in await others()]
        error.remedy = did_you_mean(short(name), names) or f"there is no {kind} yet"
        raise


def says_missing(error: MarsamError) -> bool:
    """Whether an error means that a named thing is not there: of a name in a spec, that is an Invalid."""
    return isinstance(error, Missing) or error.reason.endswith("_NOT_FOUND")


def pairs(texts: Iterable[str], *, option: str) -> dict[str, str]:
    """Reads `key=value` words; Invalid names the option."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise Invalid(f"{option} takes key=value, got '{text}'", field=option, reason="OPTION_MALFORMED")
        found[key] = value
    return found
