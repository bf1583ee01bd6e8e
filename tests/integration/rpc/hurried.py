"""`python -m tests.integration.rpc.hurried N`: N servers, each told to stop, and again at once or a little later."""

import asyncio
import random
import sys

from marsam.rpc.server.settings import ServerSettings
from tests.integration.rpc.support import serving


async def main(rounds: int) -> None:
    chance = random.Random(5)
    for _ in range(rounds):
        settings = ServerSettings(drain_seconds=5, grace_seconds=chance.choice([0.0, 0.001, 0.01, 0.2]))
        async with serving(settings) as served:
            served.lifecycle.stop()
            if chance.random() < 0.5:
                await asyncio.sleep(chance.uniform(0, 0.01))
            served.lifecycle.stop()
            await asyncio.wait_for(served.task, timeout=30)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
