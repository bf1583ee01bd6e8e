"""From pictures with readings to rates, differences and their intervals."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marsam_generator.evaluation.calibration import Calibration, Source
from marsam_generator.evaluation.judges import UNSURE
from marsam_generator.evaluation.results import (
    ALL_LANGUAGES,
    Cell,
    Change,
    Corrected,
    LanguageGap,
    Picture,
)
from marsam_generator.evaluation.scoring import attributes_of, measures, score
from marsam_generator.evaluation.statistics import (
    Agreement,
    Floats,
    Interval,
    PromptBootstrap,
    by_prompt,
    clustered_newcombe,
    clustered_wilson,
    effective_n,
    percentile_interval,
    rogan_gladen,
)
from marsam_generator.evaluation.suites import Suite

_Key = tuple[str, str, int]  # prompt, language, seed: what the pictures of a pair share


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The numbers of an evaluation. `left_out` counts scenes that some model has no picture of."""

    cells: tuple[Cell, ...]
    changes: tuple[Change, ...]
    gaps: tuple[LanguageGap, ...]
    left_out: int


@dataclass(frozen=True, kw_only=True)
class _Table:
    """One measure in one group and language.

    `yes` and `unsure`: models × pictures, 0 or 1. `cluster`: the number of each picture's prompt.
    """

    yes: Floats
    unsure: Floats
    cluster: NDArray[np.intp]
    prompts: int

    def successes(self, model: int) -> Floats:
        return by_prompt(self.yes[model], self.cluster, self.prompts)

    @property
    def sizes(self) -> Floats:
        return by_prompt(np.ones(len(self.cluster)), self.cluster, self.prompts)


class Analyst:
    """Computes an analysis; one object a call of `analyse`."""

    def __init__(
        self,
        suite: Suite,
        pictures: Sequence[Picture],
        *,
        models: int,
        trusted: Collection[str],
        calibration: Calibration,
        bootstrap: PromptBootstrap,
    ) -> None:
        self._suite = suite
        self._models = models
        self._trusted = frozenset(trusted)
        self._calibration = calibration
        self._bootstrap = bootstrap
        self._prompts = {prompt.id: prompt for prompt in suite.prompts}
        self._by_scene: dict[_Key, dict[int, Picture]] = {}
        for picture in pictures:
            scene = (picture.prompt, picture.language, picture.seed)
            self._by_scene.setdefault(scene, {})[picture.model] = picture
        complete = [scene for scene, found in self._by_scene.items() if len(found) == models]
        self.left_out = len(self._by_scene) - len(complete)
        self._scenes = sorted(complete)
        self._scores = {
            (scene, model): score(
                self._prompts[scene[0]],
                {name: answer.value for name, answer in self._by_scene[scene][model].answers.items()},
                self._trusted,
            )
            for scene in self._scenes
            for model in range(models)
        }

    def run(self) -> Analysis:
        """Compute every cell, change and gap."""
        cells: list[Cell] = []
        changes: list[Change] = []
        gaps: list[LanguageGap] = []
        for group in self._suite.groups:
            for measure in measures(self._suite, self._trusted):
                agreement, source = self._calibration.of(measure.name)
                for language in (ALL_LANGUAGES, *self._suite.languages):
                    table = self._table(group.name, measure.name, language)
                    if table is None:
                        continue
                    place = (group.name, language, measure.name)
                    cells += [self._cell(place, m, table, agreement, source) for m in range(self._models)]
                    changes += [self._change(place, m, table, agreement, source) for m in range(1, self._models)]
                gaps += self._gaps(group.name, measure.name)
        return Analysis(cells=tuple(cells), changes=tuple(changes), gaps=tuple(gaps), left_out=self.left_out)

    def _table(self, group: str, measure: str, language: str) -> _Table | None:
        scenes = [
            scene
            for scene in self._scenes
            if self._prompts[scene[0]].group == group
            and language in (ALL_LANGUAGES, scene[1])
            and all(measure in self._scores[scene, m] for m in range(self._models))
        ]
        if not scenes:
            return None
        numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(scene[0] for scene in scenes))}
        return _Table(
            yes=np.array([[self._scores[s, m][measure] for s in scenes] for m in range(self._models)], dtype=float),
            unsure=np.array([[self._unsure(s, m, measure) for s in scenes] for m in range(self._models)], dtype=float),
            cluster=np.array([numbers[scene[0]] for scene in scenes]),
            prompts=len(numbers),
        )

    def _unsure(self, scene: _Key, model: int, measure: str) -> bool:
        answers = self._by_scene[scene][model].answers
        needed = attributes_of(measure, self._prompts[scene[0]], self._trusted)
        return any(answers[name].value == UNSURE for name in needed if name in answers)

    def _cell(
        self, place: tuple[str, str, str], model: int, table: _Table, agreement: Agreement | None, source: Source
    ) -> Cell:
        successes, sizes = table.successes(model), table.sizes
        corrected = None
        if agreement is not None:
            se, sp = self._bootstrap.error_rates(agreement)
            draws = rogan_gladen(self._bootstrap.posterior(successes, sizes), se, sp)
            rate = float(successes.sum() / sizes.sum())
            value = float(rogan_gladen(rate, agreement.sensitivity, agreement.specificity))
            corrected = _corrected(value, draws, source)
        return Cell(
            model=model,
            group=place[0],
            language=place[1],
            measure=place[2],
            yes=int(successes.sum()),
            n=int(sizes.sum()),
            prompts=table.prompts,
            effective_n=round(effective_n(successes, sizes), 2),
            interval=clustered_wilson(successes, sizes),
            unsure=float(table.unsure[model].mean()),
            corrected=corrected,
        )

    def _change(
        self, place: tuple[str, str, str], model: int, table: _Table, agreement: Agreement | None, source: Source
    ) -> Change:
        sizes, after, before = table.sizes, table.successes(model), table.successes(0)
        difference = float((after.sum() - before.sum()) / sizes.sum())
        new, old = self._bootstrap.rates(after, sizes), self._bootstrap.rates(before, sizes)
        pairs = clustered_newcombe(table.yes[model], table.yes[0], table.cluster)
        corrected = None
        if agreement is not None:
            se, sp = self._bootstrap.error_rates(agreement)
            rates = (after.sum() / sizes.sum(), before.sum() / sizes.sum())
            value = rogan_gladen(np.array(rates), agreement.sensitivity, agreement.specificity)
            draws = rogan_gladen(new, se, sp) - rogan_gladen(old, se, sp)
            corrected = _corrected(float(value[0] - value[1]), draws, source)
        return Change(
            model=model,
            group=place[0],
            language=place[1],
            measure=place[2],
            difference=difference,
            # Where nearly all prompts change alike the bootstrap sees almost no spread; the score interval does not
            # collapse there. The wider of the two is reported.
            interval=percentile_interval(new - old).union(pairs),
            n=int(sizes.sum()),
            prompts=table.prompts,
            corrected=corrected,
        )

    def _gaps(self, group: str, measure: str) -> list[LanguageGap]:
        """Second language minus first, by model, on prompts and seeds that both languages have."""
        if len(self._suite.languages) < 2:
            return []
        first, second = self._suite.languages[:2]
        one, two = self._table(group, measure, first), self._table(group, measure, second)
        if one is None or two is None or not np.array_equal(one.cluster, two.cluster):
            return []
        gaps = []
        for model in range(self._models):
            sizes, base, other = one.sizes, one.successes(model), two.successes(model)
            draws = self._bootstrap.rates(other, sizes) - self._bootstrap.rates(base, sizes)
            pairs = clustered_newcombe(two.yes[model], one.yes[model], one.cluster)
            gaps.append(
                LanguageGap(
                    model=model,
                    group=group,
                    measure=measure,
                    first=first,
                    second=second,
                    difference=float((other.sum() - base.sum()) / sizes.sum()),
                    interval=percentile_interval(draws).union(pairs),
                )
            )
        return gaps


def _corrected(value: float, draws: Floats, source: Source) -> Corrected:
    """The point estimate always lies inside the interval that is printed beside it."""
    interval = percentile_interval(draws)
    return Corrected(
        value=value,
        interval=Interval(low=min(interval.low, value), high=max(interval.high, value)),
        source=source,
    )
