"""`python -m marsam_generator`: the generator as a process. Settings: see `settings.py`."""

import importlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from marsam.rpc.server import Assembly, Lifecycle, run
from marsam.telemetry import Meter
from marsam_generator.settings import GeneratorSettings


@asynccontextmanager
async def assemble(settings: GeneratorSettings, meter: Meter, lifecycle: Lifecycle) -> AsyncIterator[Assembly]:
    """Build the service. torch is loaded here, so that wrong settings are refused at once, and the libraries below
    are silenced before they are loaded."""
    importlib.import_module("marsam.diffusion.weights.net").quieten()
    assembly = importlib.import_module("marsam_generator.assembly")
    async with assembly.assemble(settings, meter, lifecycle) as built:
        yield built


def main() -> int:
    """Run until SIGTERM or SIGINT; the exit code."""
    return run("generator", GeneratorSettings, assemble)


if __name__ == "__main__":
    sys.exit(main())
