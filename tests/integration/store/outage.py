"""A run in whose middle the store goes away for a while: alone, and with the trainer that started it."""

import asyncio
import sys
from pathlib import Path

from hayy.demo.seaweed import Seaweed

from marsam.api.trainer.v1 import trainer_pb2
from marsam.jobs.progress import read_heartbeat
from tests.contract.families.bases import build_sd1
from tests.integration.run.store import make
from tests.integration.store import holding
from tests.integration.trainer.harness import Service, state

PROGRAM = Path(holding.__file__)
URL = "s3://marsam/home"
STEPS, EVERY = 120, 20


async def survive(server: Seaweed, scratch: Path, *, seconds: float, hung: bool) -> None:
    """Let a run begin, take the store away for `seconds` (silent with open connections if `hung`, else dead), and see
    the run end well, in the attempt that it was in, with all that it said on record.
    """
    shelf = await make(URL, build_sd1(scratch / "sd1"))
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


async def trainer_survives(server: Seaweed, scratch: Path, *, seconds: float, hung: bool) -> None:
    """As `survive`, of a run that a trainer started: neither ends over it, and no second attempt is made."""
    shelf = await make(URL, build_sd1(scratch / "sd1"))
    settings = {name.removeprefix("MARSAM_").lower(): value for name, value in server.environment.items()}
    made = Service(scratch, store=URL, run_command=f"{sys.executable},{PROGRAM}", stop_grace_s=60, **settings)
    async with made as service:
        spec = trainer_pb2.RunSpec(
            base=shelf.base.name, dataset_version=shelf.version.name, method="lora", steps=STEPS, batch_size=2,
            resolution=32, checkpoint_every=EVERY, learning_rate=1e-3, output_model_id="tuned",
        )  # fmt: skip
        spec.method_params.update({"rank": 2, "alpha": 2})
        request = trainer_pb2.CreateRunRequest(parent="projects/hayy", spec=spec)
        run = (await service.trainer.CreateRun(request, timeout=120)).run
        async with asyncio.timeout(180):
            while (found := await service.get(run.name)).progress.step < holding.HELD:
                assert state(found) in ("PENDING", "STARTING", "RUNNING"), found
                await asyncio.sleep(0.1)
        await asyncio.to_thread(server.pause if hung else server.kill)
        (service.cache / holding.GO).touch()
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.go_on if hung else server.start)
        done = await service.until(run.name, "SUCCEEDED", "FAILED", timeout_s=240)
        assert (state(done), done.attempt, done.progress.step) == ("SUCCEEDED", 1, STEPS), done
        assert done.model == "projects/hayy/models/tuned"
