"""Settings and numbers of several runs, a row each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from marsam.cli import console
from marsam.cli.compare.gather import Trial

NOTHING = "–"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One setting or number; a text for every run."""

    name: str
    values: tuple[str, ...]


def differing(trials: Sequence[Trial]) -> list[Row]:
    """The settings that not all runs share."""
    return [row for row in _settings(trials) if len(set(row.values)) > 1]


def same(trials: Sequence[Trial]) -> list[Row]:
    """The settings that all runs share, those left alone by all not among them."""
    return [row for row in _settings(trials) if len(set(row.values)) == 1 and row.values[0] not in (NOTHING, "")]


def outcomes(trials: Sequence[Trial]) -> list[Row]:
    """How far each came, what it lost, how fast it was, what it took."""
    rows = [Row(name="state", values=tuple(trial.state for trial in trials))]
    for name, key, written in _MEASURES:
        found = [trial.measures.get(key) for trial in trials]
        if any(value is not None for value in found):
            values = tuple(NOTHING if value is None else written(value) for value in found)
            rows.append(Row(name=name, values=values))
    return rows


def _loss(value: float) -> str:
    return f"{value:.5f}"


def _whole(value: float) -> str:
    return f"{value:.0f}"


_MEASURES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("steps done", "steps", _whole),
    ("pictures learnt from", "samples", _whole),
    ("final loss", "final_loss", _loss),
    ("validation loss before", "validation_loss_first", _loss),
    ("validation loss", "validation_loss", _loss),
    ("best validation loss", "validation_loss_best", _loss),
    ("at step", "validation_best_step", _whole),
    ("images a second", "images_per_second", lambda value: f"{value:.3g}"),
    ("training took", "train_seconds", console.span),
    ("peak memory", "peak_memory_bytes", console.size),
    ("weights that trained", "trainable_parameters", lambda value: f"{value:,.0f}".replace(",", "\u202f")),
    ("artifact", "artifact_bytes", console.size),
)


def _settings(trials: Sequence[Trial]) -> list[Row]:
    names = dict.fromkeys(name for trial in trials for name in trial.settings)
    return [Row(name=name, values=tuple(trial.settings.get(name, NOTHING) for trial in trials)) for name in names]
