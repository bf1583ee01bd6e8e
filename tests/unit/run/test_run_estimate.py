"""A run's own plan before it trains."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from marsam_trainer.run.estimate import Estimate, estimate, host_room
from marsam_trainer.run.stages import Footprint, Stage
from marsam_trainer.run.work import Work

from marsam.core.errors import Invalid
from tests.unit.trainer.test_knobs import VERSION, facts
from tests.unit.trainer.test_past_runs import SPEC


def test_a_run_that_cannot_be_planned_says_so_and_goes_on(tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    reporter = SimpleNamespace(event=lambda kind, **fields: told.append({"kind": kind, **fields}))
    work = SimpleNamespace(spec=SPEC, version=VERSION, regularisation=None, device="cpu", reporter=reporter)
    assert estimate(cast(Work, work), tmp_path / "nothing", facts(), lanes=1) == Estimate()
    (only,) = told
    assert (only["kind"], only["level"]) == ("log", "warning")
    assert only["message"].startswith("what the run needs is not known: ")


def test_processes_on_one_machine_hold_everything_but_what_the_first_alone_does() -> None:
    terms = {"base weights": 10, "checkpoint on its way": 4}
    of_cpu = Footprint(stages=(Stage(name="train", terms=terms),), trainable=1, share=0.0)
    (train,) = of_cpu.on_one_host(3, once=("checkpoint on its way",)).stages
    assert (train.terms, train.total, train.host) == ({"base weights": 30, "checkpoint on its way": 4}, 34, 0)
    assert of_cpu.on_one_host(3, once=()).peak.total == 42
    of_gpus = Footprint(stages=(Stage(name="train", terms=terms, aside={"encoded data": 5}),), trainable=1, share=0.0)
    (train,) = of_gpus.beside_gpus("libraries", 7).on_one_host(2, once=()).stages
    # A GPU is each process' own, the host's memory is not.
    assert (train.total, train.aside) == (14, {"encoded data": 10, "libraries": 14})


def test_a_run_does_not_start_where_its_hosts_memory_is_short() -> None:
    memory = [{"term": "libraries", "bytes": 1 << 30}, {"term": "best weights", "bytes": 3 << 30}]
    found = {"host": {"memory": memory, "total_bytes": 4 << 30, "available_bytes": 4 << 30}}
    host_room(found, limit=1.05)
    host_room({}, limit=1.05)
    with pytest.raises(Invalid) as caught:
        host_room(found, limit=0.9)
    assert caught.value.reason == "HOST_MEMORY_SHORT"
    assert "about 4.00 of the 4.00 GiB" in caught.value.message
    assert "best weights take 3.00" in caught.value.message
