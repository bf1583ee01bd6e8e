"""`python -m marsam_generator.evaluation run …`: one attempt of an evaluation as a program of its own.

Exit codes: see `codes`. What stopped it lies in the attempt's `failure.json`, in words.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from marsam.core.clock import SystemClock
from marsam.core.errors import MarsamError
from marsam.core.records import canonical
from marsam.rpc.wire import read_credentials
from marsam.store.open import open_store
from marsam.telemetry import Log, configure
from marsam_generator.evaluation import codes
from marsam_generator.evaluation.program import FAILURE, Order, Program

_log = Log("marsam_generator.evaluation")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one attempt and return the exit code."""
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    parser = argparse.ArgumentParser(prog="marsam-evaluation")
    run = parser.add_subparsers(required=True).add_parser("run", help="work on one attempt of an evaluation")
    run.add_argument("--store", required=True, metavar="URL")
    run.add_argument("--evaluation", required=True, metavar="NAME", help="projects/{p}/evaluations/{ulid}")
    run.add_argument("--attempt", required=True, type=int, metavar="N")
    run.add_argument("--cache", required=True, type=Path, metavar="DIR", help="local copies of weights")
    run.add_argument("--cache-bytes", type=int, metavar="N", help="most bytes of copies to keep; unbounded")
    run.add_argument("--generator", default="", metavar="ADDRESS", help="host:port; that of the spec when left out")
    run.add_argument("--token-file", type=Path, metavar="FILE", help="bearer token for the generator")
    run.add_argument("--tls-ca-file", type=Path, metavar="FILE", help="who signed the generator's certificate")
    run.add_argument("--tls-cert-file", type=Path, metavar="FILE", help="certificate to show to the generator")
    run.add_argument("--tls-key-file", type=Path, metavar="FILE", help="its key")
    run.add_argument("--tls-server-name", default="", metavar="NAME", help="name in the generator's certificate")
    options = parser.parse_args(argv)
    configure(service="evaluation")
    try:
        order = Order(
            blobs=open_store(options.store),
            clock=SystemClock(),
            evaluation=options.evaluation,
            attempt=options.attempt,
            cache=options.cache.absolute(),
            cache_bytes=options.cache_bytes,
            generator=options.generator,
            credentials=read_credentials(
                token_file=options.token_file,
                ca_file=options.tls_ca_file,
                certificate_file=options.tls_cert_file,
                key_file=options.tls_key_file,
                server_name=options.tls_server_name,
            ),
        )
        order.cache.mkdir(parents=True, exist_ok=True)
        return asyncio.run(_attempt(order))
    except (MarsamError, OSError) as error:
        _log.error("evaluation.refused", message=str(error))
        return codes.code_of(error)


async def _attempt(order: Order) -> int:
    """Work until done, failed or told to stop."""
    _lower_claims()
    work = asyncio.create_task(Program(order).run(), name="evaluation")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    try:
        results = await work
    except asyncio.CancelledError:
        _log.info("evaluation.stopped")
        return codes.STOPPED
    except Exception as failure:
        error = _first(failure)
        if isinstance(error, MarsamError):
            _log.error("evaluation.failed", reason=error.reason, message=error.message)
        else:
            _log.exception("evaluation.bug")
        await _confess(order, error)
        return codes.code_of(error)
    _log.info("evaluation.done", message=results.verdict.sentence["en"])
    return codes.DONE


def _lower_claims() -> None:
    """The judge is small beside the generator, which draws on the same processor: one thread is enough for it."""
    import torch

    torch.set_num_threads(1)


def _first(error: BaseException) -> BaseException:
    """The first real failure inside a group of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _confess(order: Order, error: BaseException) -> None:
    """Leave the reason where the service finds it; a store that is gone cannot be told."""
    if isinstance(error, MarsamError):
        words = {"reason": error.reason, "message": error.message, "remedy": error.remedy}
    else:
        words = {"reason": "INTERNAL", "message": f"{type(error).__name__}: {error}", "remedy": "see the log"}
    try:
        await order.blobs.put(order.file(FAILURE), canonical(words))
    except MarsamError as silent:
        _log.warning("evaluation.not_told", reason=silent.reason, message=silent.message)


if __name__ == "__main__":
    sys.exit(main())
