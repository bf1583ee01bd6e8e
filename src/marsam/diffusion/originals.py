"""Names of a transformer's layers in its makers' code, from a table of templates. Imports no torch."""

import re
from collections.abc import Callable, Collection, Mapping

_BLOCK = re.compile(r"(?<=\.)\d+(?=\.)")


def by_block(table: Mapping[str, tuple[str, ...]]) -> Callable[[Collection[str]], Mapping[str, tuple[str, ...]]]:
    """What `spec.Kohya.layers` is for a family whose makers' names follow `table`: their template → ours, in the order
    of rows, with `{}` for the number of the block.

    A layer of theirs is named only where the denoiser has all that it holds.
    """

    def layers(ours: Collection[str]) -> Mapping[str, tuple[str, ...]]:
        blocks = {match[0] for layer in ours if (match := _BLOCK.search(layer))}
        found = {}
        for theirs, parts in table.items():
            for block in sorted(blocks, key=int) if "{}" in theirs else [""]:
                held = tuple(part.format(block) for part in parts)
                if all(part in ours for part in held):
                    found[theirs.format(block)] = held
        return found

    return layers
