"""What a service runs on: one `serve()`, one pipeline around every call, one `run()` for its `main`.

async def assemble(settings, meter, lifecycle):        # an async context manager
    yield Assembly(registrations=[Registration(service="marsam.api.…", add=lambda server: add_…(servicer, server))])

def main() -> int:
    return run("dataset", Settings, assemble)
"""

from marsam.core.tokens import Principal
from marsam.rpc.server.auth import current_principal
from marsam.rpc.server.lifecycle import Lifecycle
from marsam.rpc.server.pages import Page
from marsam.rpc.server.program import Assembly, run
from marsam.rpc.server.serve import Registration, serve
from marsam.rpc.server.settings import ServerSettings

__all__ = [
    "Assembly",
    "Lifecycle",
    "Page",
    "Principal",
    "Registration",
    "ServerSettings",
    "current_principal",
    "run",
    "serve",
]
