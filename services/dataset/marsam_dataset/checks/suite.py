"""The order of the checks."""

from collections.abc import Sequence
from dataclasses import replace

from marsam_dataset.checks import captions, contradictions, exact_duplicates, near_duplicates, rights
from marsam_dataset.checks.batch import Batch, Check, Found

_OF_ONE_ITEM: tuple[Check, ...] = (captions.check, contradictions.check, rights.check)
_AMONG_ITEMS: tuple[Check, ...] = (exact_duplicates.check, near_duplicates.check)


def run(batch: Batch) -> list[Found]:
    """Return what import noted and every check finds, in order of arrival of the items. Blocking.

    Duplicates come last, so that a sound copy is kept before one that failed otherwise.
    """
    results = [Found(item=item.id, finding=finding) for item in batch.items for finding in item.findings]
    results += [one for check in _OF_ONE_ITEM for one in check(batch)]
    for check in _AMONG_ITEMS:
        results += list(check(replace(batch, failed=failed(results))))
    return sorted(results, key=lambda one: one.item)


def failed(results: Sequence[Found]) -> frozenset[str]:
    """Return the ids of the items that some finding fails."""
    return frozenset(one.item for one in results if one.finding.severity == "fail")
