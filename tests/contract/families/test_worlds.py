"""Two processes under torchrun learn what one learns from the joined batch, whole or in parts, in 4 bits too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from marsam.diffusion.precision import Precision
from tests.contract.families.worlds import CASES, Case, loop_of, taken

pytestmark = pytest.mark.slow
every_case = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


@pytest.fixture(scope="module")
def two(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks wrote down of every case."""
    roots = {bases[family].parent for family in sorted({case.family for case in CASES})}
    out = tmp_path_factory.mktemp("worlds")
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "0"]
    done = subprocess.run(
        [sys.executable, *command, "-m", "tests.contract.families.worlds", str(roots.pop()), str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return out


def _numbers(two: Path, case: Case, rank: int) -> dict[str, object]:
    found: dict[str, object] = json.loads((two / f"{case.name}-{rank}.json").read_text())
    return found


def _gradients(two: Path, case: Case) -> dict[str, torch.Tensor]:
    ranks = [load_file(two / f"{case.name}-{rank}.safetensors") for rank in range(2)]
    if case.sharding == "replicated":
        assert all(torch.equal(ranks[1][name], value) for name, value in ranks[0].items())
        return ranks[0]
    names = sorted({*ranks[0], *ranks[1]})
    return {name: torch.cat([rank[name] for rank in ranks if name in rank]) for name in names}


@every_case
def test_two_ranks_take_the_steps_of_one(two: Path, bases: dict[str, Path], case: Case) -> None:
    gradients, alone = taken(loop_of(case, bases[case.family]))
    together = _gradients(two, case)
    assert together.keys() == gradients.keys()
    # bf16 keeps 8 bits of a number; in fp32 two orders of summation differ in the last bits.
    near, steps = (1e-6, 1e-5) if case.precision is Precision.FP32 else (1e-2, 1e-2)
    largest = max(float(value.abs().max()) for value in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(together[name], gradient, atol=near * largest, rtol=near)
    for rank in range(2):
        told = _numbers(two, case, rank)
        for what, numbers in alone.items():
            assert told[what] == pytest.approx(numbers, rel=steps), what
    assert _numbers(two, case, 0) == _numbers(two, case, 1)


@pytest.mark.parametrize("case", [case for case in CASES if case.sharding == "sharded"], ids=lambda case: case.name)
def test_in_parts_the_losses_are_those_of_the_whole(two: Path, case: Case) -> None:
    whole = _numbers(two, case._replace(sharding="replicated", again=False), 0)
    near = 1e-6 if case.precision is Precision.FP32 else 1e-2
    assert _numbers(two, case, 0)["losses"] == pytest.approx(whole["losses"], rel=near)
