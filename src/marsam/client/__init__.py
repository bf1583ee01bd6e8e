"""The Python SDK.

    async with AsyncMarsam() as marsam:
        imported = await marsam.datasets.import_folder("photos", "hayy")
        async for event in marsam.generation.generate("a baker in a lab", model="hayy-base", seed=7): ...

`Marsam` is the same without an event loop. Failures are `marsam.core.errors.MarsamError`s.
"""

from marsam.client.blocking import Marsam
from marsam.client.drawing import Accepted, Done, Event, Image, Preview, Progress
from marsam.client.endpoints import Endpoints, find
from marsam.client.files import Transfer
from marsam.client.marsam import AsyncMarsam
from marsam.client.models import kind_name
from marsam.client.naming import qualify, short
from marsam.client.states import is_final, state_name
from marsam.rpc.wire import ClientTls, Credentials, find_credentials, read_credentials

__all__ = [
    "Accepted",
    "AsyncMarsam",
    "ClientTls",
    "Credentials",
    "Done",
    "Endpoints",
    "Event",
    "Image",
    "Marsam",
    "Preview",
    "Progress",
    "Transfer",
    "find",
    "find_credentials",
    "is_final",
    "kind_name",
    "qualify",
    "read_credentials",
    "short",
    "state_name",
]
