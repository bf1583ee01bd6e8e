"""Runs that take some steps from pictures of what must not be forgotten."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from marsam_trainer.run import codes

from marsam.catalog.datasets import Caption
from tests.integration.run.endings import tensors
from tests.integration.run.store import Shelf

pytestmark = pytest.mark.slow
Program = Callable[[list[str]], int]


def test_what_must_not_be_forgotten_is_trained_on_and_named_in_the_lineage(
    shelf: Shelf, cache: Path, program: Program
) -> None:
    apart = asyncio.run(shelf.apart(3))
    found: dict[str, Any] = {}
    for name, changes in {
        "without": {},
        "with": apart,
        "again": apart,
        "lighter": {**apart, "regularisation_weight": 0.1},
    }.items():
        job_id = asyncio.run(shelf.order(**changes))
        assert program(shelf.arguments(job_id, 1, cache)) == codes.DONE
        model = asyncio.run(shelf.model(job_id))
        found[name] = asyncio.run(tensors(shelf.blobs, model)), model
    assert found["with"][0] == found["again"][0]
    assert len({weights for weights, _ in found.values()}) == 3
    model, without = found["with"][1], found["without"][1]
    assert model.lineage.versions == {
        shelf.version.name: shelf.version.digest,
        apart["regularisation"]: apart["regularisation_digest"],
    }
    assert without.lineage.versions == {shelf.version.name: shelf.version.digest}
    assert (model.metrics["samples"], model.metrics["regularisation_samples"]) == (5.0, 3.0)
    assert "regularisation_samples" not in without.metrics
    assert (model.params["regularisation_share"], model.params["regularisation_weight"]) == (0.25, 1.0)


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"regularisation_digest": "sha256:" + "0" * 64}, "DIGEST_MISMATCH", "regularisation_digest"),
        ({"languages": ("en", "ar")}, "LANGUAGE_ABSENT", "regularisation"),
    ],
)
def test_a_set_that_is_another_or_says_nothing_is_refused(
    shelf: Shelf, cache: Path, program: Program, changes: dict[str, Any], reason: str, field: str
) -> None:
    apart = asyncio.run(shelf.apart(2, Caption(language="fr", text="une femme")))
    job_id = asyncio.run(shelf.order(**{**apart, **changes}))
    assert program(shelf.arguments(job_id, 1, cache)) == codes.BAD_SPEC
    failure = json.loads((shelf.attempt_folder(job_id, 1) / "failure.json").read_text())
    assert (failure["reason"], failure["field"]) == (reason, field)
