"""Captions that name another value of an attribute than the one declared beside the picture."""

from collections.abc import Iterator

from marsam.catalog.datasets import Caption, Item, Severity
from marsam_dataset.checks.batch import Batch, Found, found
from marsam_dataset.vocabulary import Vocabulary

NAME = "contradiction"


def check(batch: Batch) -> Iterator[Found]:
    """Fail an item whose caption and attributes cannot both be true: one of them would be learnt wrongly.

    Only a warning when nobody wrote a vocabulary: 'a painter's smock' then sounds like a painter.
    """
    severity: Severity = "fail" if batch.vocabulary.authored else "warn"
    for item in batch.items:
        for caption in item.captions:
            for attribute, named in _contradicted(item, caption, batch.vocabulary):
                message = (
                    f"The '{caption.language}' caption says {attribute} “{named}”, but it is declared as "
                    f"'{item.attributes[attribute]}'."
                )
                yield found(item, NAME, severity, "CAPTION_CONTRADICTS", message)


def _contradicted(item: Item, caption: Caption, vocabulary: Vocabulary) -> Iterator[tuple[str, str]]:
    """Yield (attribute, phrase) for each attribute of which the caption names only other values.

    A word that may belong to several attributes ('red': of the coat, of the scarf) speaks against the item only when
    none of them has it, and then against the first. An attribute that is not declared cannot be contradicted.
    """
    confirmed: set[str] = set()
    against: dict[str, str] = {}
    for mention in vocabulary.mentions(caption.text, caption.language):
        agreeing = {a for a, value in mention.names if item.attributes.get(a) == value}
        if agreeing:
            confirmed |= agreeing
        elif all(a in item.attributes for a, _ in mention.names):
            against.setdefault(min(a for a, _ in mention.names), mention.phrase)
    for attribute, phrase in against.items():
        if attribute not in confirmed:
            yield attribute, phrase
