"""What bases say of themselves, read from their JSON files alone: enough to check a request, wherever it is drawn."""

import asyncio

from marsam.catalog.models import Model
from marsam.diffusion import registry
from marsam.diffusion.spec import BaseFacts
from marsam_generator.trees import Trees


class Bases:
    """Facts by digest, read once. Belongs to one event loop."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees
        self._facts: dict[str, BaseFacts] = {}

    async def facts(self, model: Model) -> BaseFacts:
        """What a base (or a fully tuned model) says of itself. Raises `Invalid` for one that says nothing usable."""
        if model.digest not in self._facts:
            wanted = set(registry.family_facts(model.family).config_files)
            files = [file for file in model.files if file.path in wanted]
            async with self._trees.laid_out(model, files) as folder:
                self._facts[model.digest] = await asyncio.to_thread(registry.read_base_folder, model.family, folder)
        return self._facts[model.digest].as_said(model.params)
