"""What a comparison says of runs, and that nobody's words are mark-up on its page."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from dataclasses import replace

from marsam.api.common.v1 import common_pb2
from marsam.api.trainer.v1 import trainer_pb2
from marsam.cli.compare.gather import Sample, gather
from marsam.cli.compare.page import render, scenes
from marsam.cli.compare.plots import plots
from marsam.cli.compare.tables import differing, outcomes, same
from tests.unit.cli.trials import PROMPTS, trial


def test_settings_that_differ_come_apart_from_those_that_do_not() -> None:
    one, two = trial(0), trial(1, method_params={"rank": 4, "dropout": 0.1}, learning_rate=3e-4)
    assert [(row.name, row.values) for row in differing([one, two])] == [
        ("method_params.alpha", ("16", "–")),
        ("method_params.rank", ("16", "4")),
        ("learning_rate", ("0.0001", "0.0003")),
        ("method_params.dropout", ("–", "0.1")),
    ]
    shared = {row.name: row.values[0] for row in same([one, two])}
    assert (shared["steps"], shared["seed"], shared["languages"]) == ("300", "7", "ar, en")
    assert "snr_gamma" not in shared
    assert not {"display_name", "output_model_id"} & set(shared)


def test_numbers_that_a_run_lacks_are_left_open() -> None:
    one, two = trial(0), replace(trial(1), measures={"final_loss": 0.5}, state="failed")
    rows = {row.name: row.values for row in outcomes([one, two])}
    assert rows["state"] == ("succeeded", "failed")
    assert rows["validation loss"] == ("0.30000", "–")
    assert rows["peak memory"] == ("1.2 GB", "–")
    assert rows["final loss"][1] == "0.50000"
    assert "best validation loss" not in rows


def test_pictures_are_side_by_side_only_where_words_seed_and_size_are_the_same() -> None:
    one, two, other = trial(0), trial(1), trial(2, seed=8)
    other.samples.append(Sample(prompt="", seed=None, size="", picture=b"one"))
    one.samples.append(Sample(prompt="", seed=None, size="", picture=b"two"))
    found = scenes([one, two, other])
    assert [(scene.prompt, scene.seed, scene.shared) for scene in found] == [
        (PROMPTS[0], 7, 2), (PROMPTS[1], 8, 2), ("", None, 1), (PROMPTS[0], 8, 1), (PROMPTS[1], 9, 1), ("", None, 1),
    ]  # fmt: skip
    pictures = [base64.b64decode(picture.partition(",")[2]) for picture in found[0].pictures]
    assert pictures == [one.samples[0].picture, two.samples[0].picture, b""]
    assert (found[1].language, found[0].language) == ("ar", "")


def test_curves_lie_over_one_another_on_one_scale() -> None:
    high = replace(trial(0), losses=[(1, 4.0), (2, 4.0)], validation=[(2, 4.0)])
    low = replace(trial(1), losses=[(1, 2.0), (2, 2.0), (4, 2.0)], validation=[])
    training, validation = plots([high, low])
    assert (training.low, training.high, training.last_step) == ("1.84", "4.16", 4)
    places = dict(re.findall(r'class="bold (r\d)" d="([^"]+)"', training.drawn))
    # A margin of 8 per cent of what is between them, at both ends.
    assert places == {"r0": "M25.00 6.90 L50.00 6.90", "r1": "M25.00 93.10 L50.00 93.10 L100.00 93.10"}
    assert re.findall(r'class="bold (r\d)" d="([^"]+)"', validation.drawn) == [("r0", "M100.00 50.00 L100.00 50.00")]


def test_a_curve_of_few_points_is_averaged_over_the_same_steps_as_one_of_many() -> None:
    """A run tells its loss once a second; a model holds every step's."""
    many = replace(trial(0), losses=[(step, 2.0 if step > 200 else 4.0) for step in range(1, 401)], validation=[])
    few = replace(many, losses=[point for point in many.losses if point[0] % 10 == 0])
    (training,) = plots([many, few])
    curves = {
        number: dict(pair.split() for pair in places[1:].split(" L"))
        for number, places in re.findall(r'class="bold r(\d)" d="([^"]+)"', training.drawn)
    }
    assert curves["1"].items() <= curves["0"].items()
    assert 4 < float(curves["1"]["55.00"]) < 96  # on its way down for 20 of 400 steps, as 10 is what it goes back over


def test_runs_that_told_nothing_so_far() -> None:
    blank = [replace(trial(n), losses=[], validation=[], samples=[], measures={}, state="pending") for n in (0, 1)]
    page = render(blank)
    assert "No run told a loss so far." in page and "No run drew a picture so far." in page
    assert "Nothing: the runs were asked for the same." in page


def test_nobodys_words_are_mark_up() -> None:
    odd = '</title><script>alert(1)</script>" onload="x'
    bad = trial(0, title=odd, method_params={odd: odd})
    bad.samples.append(Sample(prompt=odd, seed=1, size="8×8", picture=b"x"))
    bad.remarks.append(odd)
    page = render([bad, trial(1)])
    assert "<script" not in page and 'onload="' not in page
    assert page.count("&lt;script&gt;") >= 5


class Told:
    """As much of the SDK as a comparison asks of a run that was stopped after a preview."""

    def __init__(self, *digests: str) -> None:
        self.runs = self.models = self
        self._images = [common_pb2.FileRef(path=f"previews/{row:03d}.png", digest=d) for row, d in enumerate(digests)]

    async def watch(self, name: str) -> AsyncIterator[trainer_pb2.WatchRunResponse]:
        yield trainer_pb2.WatchRunResponse(preview=trainer_pb2.Preview(step=5, images=self._images))

    async def read_artifact(self, name: str, digest: str) -> bytes:
        return digest.encode()


def test_a_preview_stands_beside_the_picture_of_a_run_that_published() -> None:
    spec = trainer_pb2.RunSpec(seed=7, resolution=64, preview=trainer_pb2.PreviewSpec(prompts=PROMPTS, every=5))
    run = trainer_pb2.Run(name="projects/p/runs/r", spec=spec, state=common_pb2.JOB_STATE_CANCELLED)
    stopped = asyncio.run(gather(Told("one", "two"), run))  # type: ignore[arg-type]
    assert [(one.prompt, one.seed, one.picture) for one in stopped.samples] == [
        (PROMPTS[0], 7, b"one"), (PROMPTS[1], 8, b"two"),
    ]  # fmt: skip
    assert [scene.shared for scene in scenes([trial(0), stopped])] == [2, 2]
