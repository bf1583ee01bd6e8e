"""What bases say of themselves, and how they read, from their small files alone: enough to check a request, wherever it
is drawn."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping

from marsam.catalog.models import Model
from marsam.core.errors import Corrupt
from marsam.diffusion import registry
from marsam.diffusion.reading import Tokenizer
from marsam.diffusion.spec import BaseFacts, Part
from marsam.telemetry import Log
from marsam_generator import prompts
from marsam_generator.trees import Trees

_log = Log(__name__)

READERS_KEPT = 8
"""Bases whose tokenizers are kept; a large one takes some 50 MB."""

PROMPTS_KEPT = 512


class Bases:
    """By digest, read once. Belongs to one event loop."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees
        self._facts: dict[str, BaseFacts] = {}
        self._words: OrderedDict[str, Mapping[str, Tokenizer]] = OrderedDict()
        self._remarks: OrderedDict[tuple[object, ...], list[str]] = OrderedDict()
        self._reading = asyncio.Lock()

    async def facts(self, model: Model) -> BaseFacts:
        """What a base (or a fully tuned model) says of itself, and its manifest of it. Raises `Invalid` for one that
        says nothing usable."""
        if model.digest not in self._facts:
            wanted = set(registry.family_facts(model.family).config_files)
            files = [file for file in model.files if file.path in wanted]
            async with self._trees.laid_out(model, files) as folder:
                self._facts[model.digest] = await asyncio.to_thread(registry.read_base_folder, model.family, folder)
        return self._facts[model.digest].as_said(model.params)

    async def remarks(self, model: Model, texts: Mapping[str, str]) -> list[str]:
        """What is worth knowing of how a base reads `texts`, by what they are called."""
        asked = (model.digest, *texts.items())
        found = self._remarks.get(asked)
        if found is None:
            facts, family = await self.facts(model), registry.family_facts(model.family)
            async with self._reading:  # tokenizers are not thread-safe
                words = await self._words_of(model)
                found = await asyncio.to_thread(prompts.remarks, words, family, facts, texts)
            self._remarks[asked] = found
            while len(self._remarks) > PROMPTS_KEPT:
                self._remarks.popitem(last=False)
        return found

    async def _words_of(self, model: Model) -> Mapping[str, Tokenizer]:
        if model.digest not in self._words:
            family = registry.family_facts(model.family)
            folders, wanted = family.tokenizers(), set(family.config_files)
            files = [file for file in model.files if file.path in wanted or file.path.split("/")[0] in folders]
            try:
                async with self._trees.laid_out(model, files) as folder:
                    load = registry.family(model.family).load
                    parts = await asyncio.to_thread(load, folder, parts=frozenset({Part.WORDS}))
                self._words[model.digest] = parts.text
            except Corrupt as error:
                # Whoever loads the base says so; that prompts are not looked at is no reason to draw none.
                _log.warning("base.tokenizer_unreadable", model=model.name, message=str(error))
                self._words[model.digest] = {}
            while len(self._words) > READERS_KEPT:
                self._words.popitem(last=False)
        self._words.move_to_end(model.digest)
        return self._words[model.digest]
