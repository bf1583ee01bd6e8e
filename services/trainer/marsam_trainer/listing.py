"""Lists of runs: the filter language, and pages newest first."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from marsam.catalog.repository import load_model
from marsam.catalog.runs import RunSpec
from marsam.core.errors import Invalid, MarsamError, unknown_name
from marsam.core.records import load
from marsam.jobs.heads import gathered
from marsam.jobs.states import State
from marsam.rpc.server.paging import Page
from marsam_trainer.runs import Runs, RunView

_TERM = re.compile(r"(state|family|method|label\.[a-z0-9][a-z0-9._-]{0,62})\s*=\s*\"?([^\s\"=]+)\"?")


@dataclass(frozen=True, kw_only=True)
class Filter:
    """What a run must be to be listed; what is asked of its spec stands apart, because specs must be read."""

    by_state: Sequence[Callable[[State], bool]] = ()
    by_spec: Sequence[Callable[[RunSpec], bool]] = ()

    def admits(self, state: State) -> bool:
        """Whether a run that is `state` may be listed, whatever it was asked to do."""
        return all(test(state) for test in self.by_state)

    def fits(self, spec: RunSpec) -> bool:
        """Whether a run that was asked to do `spec` may be listed, however it stands."""
        return all(test(spec) for test in self.by_spec)


class Lister:
    """Answers lists from the index; remembers the family of each base, which never changes."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._families: dict[str, str] = {}

    async def page(self, project: str, page: Page, *, filter_: str) -> tuple[list[RunView], str]:
        """One page of the project's runs, newest first, and the next page's token. Raises `Invalid` for the filter."""
        asked = parse_filter(filter_, family_of=self._family)
        index = await self._runs.index(project)
        # One more than is shown tells whether there are more; a filter by spec must see all.
        wanted = None if asked.by_spec else page.size + 1
        keep = (lambda row: asked.admits(row.state)) if asked.by_state else None
        rows, _ = index.page(size=wanted, before=page.last, keep=keep)
        if asked.by_spec:
            read = (await index.specs(rows)).items()
            specs = {run_id: load(RunSpec, data, what=f"spec of {run_id}") for run_id, data in read}
            if "family" in filter_:
                await self._learn_families({spec.base for spec in specs.values()})
            rows = [row for row in rows if row.job_id in specs and asked.fits(specs[row.job_id])]
        last = {row.job_id: row.seq for row in rows}
        shown, token = page.cut(list(last), descending=True)
        views = await gathered(lambda run_id: self._runs.view(project, run_id, until=last[run_id]), shown)
        return list(views.values()), token

    def _family(self, spec: RunSpec) -> str:
        return self._families.get(spec.base, "")

    async def _learn_families(self, bases: set[str]) -> None:
        for base in bases - self._families.keys():
            try:
                self._families[base] = (await load_model(self._runs.blobs, base)).family
            except MarsamError:  # a deleted base has no family; its runs match none
                continue


def parse_filter(text: str, *, family_of: Callable[[RunSpec], str]) -> Filter:
    """What `text` asks for: terms `state=`, `family=`, `method=`, `label.k=`, joined by AND.

    Raises `Invalid` (FILTER_MALFORMED, UNKNOWN_STATE) naming what is allowed.
    """
    by_state: list[Callable[[State], bool]] = []
    by_spec: list[Callable[[RunSpec], bool]] = []
    for term in re.split(r"\s+AND\s+", text.strip()) if text.strip() else []:
        match = _TERM.fullmatch(term)
        if match is None:
            raise Invalid(
                f"cannot filter by '{term[:80]}'",
                field="filter",
                reason="FILTER_MALFORMED",
                remedy="terms: state=FAILED, family=sd1, method=lora, label.team=art; joined by AND",
            )
        name, value = match.groups()
        if name != "state":
            by_spec.append(_test(name, value, family_of))
        elif value not in State.__members__:
            raise unknown_name("state", value, State.__members__, field="filter")
        else:
            by_state.append(State(value).__eq__)
    return Filter(by_state=by_state, by_spec=by_spec)


def _test(name: str, value: str, family_of: Callable[[RunSpec], str]) -> Callable[[RunSpec], bool]:
    if name == "family":
        return lambda spec: family_of(spec) == value
    if name == "method":
        return lambda spec: spec.method == value
    label = name.removeprefix("label.")
    return lambda spec: spec.labels.get(label) == value
