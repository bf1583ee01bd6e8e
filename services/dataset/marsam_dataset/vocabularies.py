"""The vocabulary of a dataset: the last one that an import brought, or what the declared values make by themselves."""

from collections.abc import Sequence

from marsam.catalog.datasets import Item
from marsam.catalog.imports import VocabularyRecord
from marsam.core.records import load
from marsam.store import keys
from marsam.store.blobs import Blobs
from marsam.store.content import read_blob
from marsam.store.numbered import NumberedLog
from marsam_dataset.vocabulary import Vocabulary, of_values


async def load_vocabulary(blobs: Blobs, project: str, dataset_id: str, items: Sequence[Item]) -> Vocabulary:
    """Return the vocabulary that holds for a dataset with these items."""
    head = await NumberedLog(blobs, keys.vocabularies(project, dataset_id)).head()
    if head is None:
        return of_values(item.attributes for item in items)
    record = load(VocabularyRecord, head[1], what=f"vocabulary of {dataset_id}")
    return Vocabulary.parse(await read_blob(blobs, project, record.digest))
