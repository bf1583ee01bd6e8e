"""The `main` of a service: arguments, settings, logs, start-up errors, exit codes.

Exit codes: 0 drained; 64 settings or arguments are wrong; 69 something this needs is not there (address, store);
70 our own bug. On refusal one JSON log line says reason, message, remedy.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from marsam.core.errors import Invalid, MarsamError
from marsam.core.records import to_plain
from marsam.core.settings import load_settings
from marsam.rpc.server.lifecycle import Lifecycle
from marsam.rpc.server.pages import Page
from marsam.rpc.server.serve import Registration, serve
from marsam.rpc.server.settings import ServerSettings
from marsam.store.settings import s3_settings, s3_variables
from marsam.telemetry import Log, Meter, configure

S = TypeVar("S", bound=ServerSettings)

_LOG = Log("marsam.rpc.program")
EXIT_USAGE, EXIT_UNAVAILABLE, EXIT_BUG = 64, 69, 70


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """A service, built and ready to be served."""

    registrations: Sequence[Registration]
    pages: Sequence[Page] = ()
    fitness: Callable[[], AsyncIterator[bool]] | None = None
    """Whether the service can do its work: now, and whenever that changes. None: always."""


Assemble = Callable[[S, Meter, Lifecycle], AbstractAsyncContextManager[Assembly]]


def run(
    service: str,
    settings_type: type[S],
    assemble: Assemble[S],
    *,
    argv: Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> int:
    """Runs a service until it is told to stop; gives the exit code. Blocks; call it from `__main__`.

    `assemble(settings, meter, lifecycle)` is an async context manager: what it opens stays open until the last call has
    ended. A MarsamError raised while it enters refuses the start.

    Arguments: `--config FILE` (TOML), `--check-config` (print the settings in force and exit), `--until-stdin-closes`
    (also stop when standard input ends: whoever started us is gone).
    """
    # Programs are launched by exec; gRPC's fork handlers only cost and sometimes hang.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    parser = argparse.ArgumentParser(prog=f"marsam-{service}")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings in TOML; MARSAM_* variables win over it")
    parser.add_argument("--check-config", action="store_true", help="print the settings in force and exit")
    parser.add_argument("--until-stdin-closes", action="store_true", help="stop when standard input ends")
    arguments = parser.parse_args(argv)
    configure(service=service)
    try:
        environment = os.environ if env is None else env
        s3 = s3_settings(environment)  # read where a store is opened; what is wrong with them is said here
        settings = load_settings(
            settings_type, env=environment, file=arguments.config, also_known=s3_variables(environment)
        )
    except MarsamError as error:
        return _refuse(error)
    if arguments.check_config:
        shown = to_plain(settings) | to_plain(s3) | ({"s3_secret_key": "***"} if s3.s3_secret_key else {})
        sys.stdout.write(json.dumps(shown, default=str, indent=2, ensure_ascii=False) + "\n")
        return 0
    configure(service=service, level=settings.log_level)
    try:
        asyncio.run(_main(service, settings, assemble, follow_stdin=arguments.until_stdin_closes))
    except MarsamError as error:
        return _refuse(error)
    except Exception:
        _LOG.exception("service.bug")
        return EXIT_BUG
    return 0


async def _main(service: str, settings: S, assemble: Assemble[S], *, follow_stdin: bool) -> None:
    lifecycle = Lifecycle()
    lifecycle.on_signals()
    if follow_stdin:
        _follow_stdin(patience=settings.drain_seconds + settings.grace_seconds + 20.0)
    meter = Meter(service=service, version=version("marsam"))
    async with assemble(settings, meter, lifecycle) as assembly:
        await serve(
            assembly.registrations,
            settings,
            meter=meter,
            lifecycle=lifecycle,
            web=assembly.pages,
            fitness=assembly.fitness,
        )


def _follow_stdin(*, patience: float) -> None:
    """When standard input ends, asks this process to stop, and ends it by force `patience` seconds later."""

    def follow() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(patience)
        os._exit(EXIT_UNAVAILABLE)

    threading.Thread(target=follow, name="program.stdin", daemon=True).start()


def _refuse(error: MarsamError) -> int:
    _LOG.error("service.refused", reason=error.reason, message=error.message, remedy=error.remedy,
               setting=error.field or "")  # fmt: skip
    return EXIT_USAGE if isinstance(error, Invalid) else EXIT_UNAVAILABLE
