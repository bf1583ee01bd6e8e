"""Words that every caption shares: what is said of all pictures binds to those words, and cannot be asked away
later.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from marsam.catalog.datasets import Item
from marsam_dataset.captions.forms import matching_key

FRAGMENT_WORDS = 3
FRAGMENT_SHARE = 0.8
SAME_SHARE = 0.02
FEWEST = 20


def warnings(items: Sequence[Item]) -> Iterator[str]:
    """Yield sentences about the captions of each language taken together; nothing below 20 captions."""
    by_language: dict[str, list[str]] = defaultdict(list)
    for item in items:
        for caption in item.captions:
            by_language[caption.language].append(matching_key(caption.text))
    for language, texts in sorted(by_language.items()):
        if len(texts) < FEWEST:
            continue
        fragments = Counter(fragment for text in texts for fragment in _fragments(text))
        if fragments:
            fragment, count = _commonest(fragments)
            if count >= FRAGMENT_SHARE * len(texts):
                yield (
                    f"{count} of {len(texts)} '{language}' captions contain “{fragment}”: the model will bind what all "
                    "pictures share to these words. Vary the wording."
                )
        text, count = _commonest(Counter(texts))
        if count > max(SAME_SHARE * len(texts), 3):
            yield f"{count} pictures have the same '{language}' caption “{text}”: say what tells them apart."


def _commonest(counts: Counter[str]) -> tuple[str, int]:
    """Of equally common ones the first by name, so that a report is the same each time."""
    return min(counts.items(), key=lambda pair: (-pair[1], pair[0]))


def _fragments(text: str) -> set[str]:
    words = text.split()
    return {" ".join(words[i : i + FRAGMENT_WORDS]) for i in range(len(words) - FRAGMENT_WORDS + 1)}
