"""What is still to come between a run's steps: as often as it is due, by what the last of it took."""

import pytest
from marsam_trainer.run.asides import Asides

from marsam.catalog.runs import Preview, RunSpec
from marsam.core.ids import new_ulid


def _spec(steps: int, every: int, shown: int = 0) -> RunSpec:
    digest = "sha256:" + "0" * 64
    return RunSpec(
        name=f"projects/p/runs/{new_ulid()}", base="projects/p/models/b", base_digest=digest, method="lora",
        dataset_version="projects/p/datasets/d/versions/v", dataset_digest=digest, output_model_id="m", batch_size=1,
        learning_rate=1e-3, resolution=32, seed=0, steps=steps, checkpoint_every=every,
        preview=Preview(prompts=("a kite",), every=shown) if shown else None,
    )  # fmt: skip


@pytest.mark.parametrize(("steps", "every"), [(9, 2), (8, 2), (5, 7), (1, 1)])
def test_what_is_held_out_is_asked_with_every_checkpoint_and_at_the_end(steps: int, every: int) -> None:
    asides = Asides(_spec(steps, every))
    assert asides.left(0) == 0.0
    due = [step for step in range(steps + 1) if step % every == 0 or step == steps]
    asides.took("validation", 0, 3.0)
    for step in range(1, steps + 1):
        assert asides.left(step) == 3.0 * sum(at >= step for at in due)
        if step in due:
            asides.took("validation", step, 3.0)
            assert asides.left(step) == 3.0 * sum(at > step for at in due)
    assert asides.left(steps) == 0.0


def test_neither_a_preview_nor_a_checkpoint_comes_after_the_last_step() -> None:
    asides = Asides(_spec(12, 4, shown=3))
    asides.took("preview", 3, 5.0)
    assert [asides.left(step) for step in (3, 4, 6, 7, 9, 10, 12)] == [10.0, 10.0, 10.0, 5.0, 5.0, 0.0, 0.0]
    asides.took("checkpoint", 4, 0.5)
    assert [asides.left(step) for step in (4, 8, 9, 12)] == [10.5, 5.5, 5.0, 0.0]


def test_the_last_of_each_says_what_the_next_will_take() -> None:
    asides = Asides(_spec(12, 4))
    asides.took("validation", 0, 60.0)  # the first may have to load what the others find
    asides.took("validation", 4, 2.0)
    assert asides.left(5) == 4.0
