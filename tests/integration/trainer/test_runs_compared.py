"""What `marsam runs compare` finds of runs that published nothing: what they told, without waiting for their end."""

import asyncio

import pytest

from marsam.cli.compare.gather import gather
from marsam.client import AsyncMarsam, Endpoints
from tests.integration.trainer.harness import Service

pytestmark = pytest.mark.slow


async def test_a_run_is_compared_by_what_it_told_while_it_works_and_when_it_was_stopped(service: Service) -> None:
    run = await service.create(steps=100000, checkpoint_every=5, labels={"step-s": "0.05"})
    place = service.address
    async with AsyncMarsam(Endpoints(dataset=place, trainer=place, generator=place)) as marsam:
        async for message in marsam.runs.watch(run.name):
            if message.HasField("progress") and message.progress.step >= 10:
                break
        # It never falls silent and never ends: to come back at all is what is asked here.
        working = await asyncio.wait_for(gather(marsam, await marsam.runs.get(run.name)), 50)
        assert working.state in ("starting", "running")
        assert working.remarks == ["it is not over: this is what it told so far"]
        assert working.losses[:3] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
        assert working.measures["images_per_second"] == 2.5
        assert (working.model, working.samples) == ("", [])
        await marsam.runs.cancel(run.name)
        await service.until(run.name, "CANCELLED")
        stopped = await gather(marsam, await marsam.runs.get(run.name))
    assert stopped.state == "cancelled"
    assert stopped.remarks[0].startswith("it published no model")
    assert len(stopped.losses) >= len(working.losses)
    last = stopped.losses[-1][0]
    late = [loss for step, loss in stopped.losses if step > 0.9 * last]
    assert stopped.measures["final_loss"] == pytest.approx(sum(late) / len(late))
