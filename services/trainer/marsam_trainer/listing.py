"""Lists of runs: the filter language, and pages newest first."""

import re
from collections.abc import Callable

from marsam.catalog.repository import load_model
from marsam.catalog.runs import RunSpec
from marsam.core.errors import Invalid, MarsamError, unknown_name
from marsam.core.records import load
from marsam.jobs.index import Row
from marsam.jobs.states import State
from marsam.rpc.server.paging import Page
from marsam_trainer.runs import Runs, RunView

_TERM = re.compile(r"(state|family|method|label\.[a-z0-9][a-z0-9._-]{0,62})\s*=\s*\"?([^\s\"=]+)\"?")

Test = Callable[[State, RunSpec], bool]


class Lister:
    """Answers lists from the index; remembers the family of each base, which never changes."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._families: dict[str, str] = {}

    async def page(self, project: str, page: Page, *, filter_: str) -> tuple[list[RunView], str]:
        """One page of the project's runs, newest first, and the next page's token. Raises `Invalid` for the filter."""
        tests = parse_filter(filter_, family_of=self._family)
        index = await self._runs.index(project)
        rows, _ = index.page(size=1 << 30, before=page.last)
        if "family" in filter_:
            await self._learn_families(rows)
        chosen = [row.job_id for row in rows if all(test(row.state, self._spec(row)) for test in tests)]
        shown, token = page.cut(chosen, descending=True)
        return [await self._runs.view(project, run_id) for run_id in shown], token

    def _spec(self, row: Row) -> RunSpec:
        return load(RunSpec, row.spec, what=f"spec of {row.job_id}")

    def _family(self, spec: RunSpec) -> str:
        return self._families.get(spec.base, "")

    async def _learn_families(self, rows: list[Row]) -> None:
        for base in {self._spec(row).base for row in rows} - self._families.keys():
            try:
                self._families[base] = (await load_model(self._runs.blobs, base)).family
            except MarsamError:  # a deleted base has no family; its runs match none
                continue


def parse_filter(text: str, *, family_of: Callable[[RunSpec], str]) -> list[Test]:
    """The tests that `text` asks for: terms `state=`, `family=`, `method=`, `label.k=`, joined by AND.

    Raises `Invalid` (FILTER_MALFORMED, UNKNOWN_STATE) naming what is allowed.
    """
    tests: list[Test] = []
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
        if name == "state" and value not in State.__members__:
            raise unknown_name("state", value, State.__members__, field="filter")
        tests.append(_test(name, value, family_of))
    return tests


def _test(name: str, value: str, family_of: Callable[[RunSpec], str]) -> Test:
    if name == "state":
        return lambda state, _: state == value
    if name == "family":
        return lambda _, spec: family_of(spec) == value
    if name == "method":
        return lambda _, spec: spec.method == value
    label = name.removeprefix("label.")
    return lambda _, spec: spec.labels.get(label) == value
