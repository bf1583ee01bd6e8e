"""Pictures about which nobody said that they may be used."""

from collections.abc import Iterator

from marsam_dataset.checks.batch import Batch, Found, found

NAME = "rights"


def check(batch: Batch) -> Iterator[Found]:
    """Warn of items without a licence or without a holder."""
    for item in batch.items:
        missing = [n for n, value in (("licence", item.rights.licence), ("holder", item.rights.holder)) if not value]
        if missing:
            message = f"No {' and no '.join(missing)} is declared: add it to rights.json or metadata.jsonl."
            yield found(item, NAME, "warn", "RIGHTS_MISSING", message)
