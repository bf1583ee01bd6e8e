"""A run in whose middle the store goes away for a while."""

import asyncio
from pathlib import Path

from hayy.demo.seaweed import Seaweed

from marsam.jobs.progress import read_heartbeat
from tests.contract.families.bases import build_sd1
from tests.integration.run.store import make
from tests.integration.store import holding

PROGRAM = Path(holding.__file__)
STEPS, EVERY = 120, 20


async def survive(server: Seaweed, scratch: Path, *, seconds: float, hung: bool) -> None:
    """Let a run begin, take the store away for `seconds` (silent with open connections if `hung`, else dead), and see
    the run end well, in the attempt that it was in, with all that it said on record.
    """
    shelf = await make("s3://marsam/home", build_sd1(scratch / "sd1"))
    job_id = await shelf.order(steps=STEPS, checkpoint_every=EVERY)
    process = shelf.start(job_id, 1, scratch / "cache", program=[str(PROGRAM)])
    log = scratch / "cache" / f"{job_id}-1.log"
    try:
        step = 0
        while step < holding.HELD:
            assert process.poll() is None, log.read_text()[-3000:]
            beat = await read_heartbeat(shelf.jobs, job_id, 1)
            step = int(beat.payload.get("step") or 0) if beat else 0
            await asyncio.sleep(0.02)
        await asyncio.to_thread(server.pause if hung else server.kill)
        (scratch / "cache" / holding.GO).touch()
        await asyncio.sleep(seconds)
        assert process.poll() is None, log.read_text()[-3000:]
        await asyncio.to_thread(server.go_on if hung else server.start)
        code = await asyncio.to_thread(process.wait, 240)
    finally:
        process.kill()
        process.wait()
    assert code == 0, log.read_text()[-3000:]
    assert any(file.path.endswith(".safetensors") for file in (await shelf.model(job_id)).files)
    told = await shelf.events(job_id, 1)
    saved = [event["step"] for event in told if event["kind"] == "checkpoint"]
    assert saved == list(range(EVERY, STEPS, EVERY))
    steps = [event["step"] for event in told if event["kind"] == "progress"]
    assert steps == sorted(steps)
    assert steps[-1] == STEPS
