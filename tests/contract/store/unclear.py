"""A real store whose answers to creates get lost: the write happens, or does not, and the caller hears neither."""

from pathlib import Path
from typing import Literal

from marsam.core.errors import OutcomeUnknown
from marsam.store.folder import FolderBlobs

Fate = Literal["lost before", "lost after", "answered"]


class UnclearBlobs(FolderBlobs):
    """A folder. Each create meets the next of `fates`; once they are used up, creates are answered."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.fates: list[Fate] = []
        self.creates: list[str] = []

    def meet(self, *fates: Fate) -> None:
        """Let the next creates meet these fates, and count creates anew."""
        self.fates, self.creates = list(fates), []

    async def create(self, key: str, data: bytes) -> None:
        fate = self.fates.pop(0) if self.fates else "answered"
        self.creates.append(key)
        if fate != "lost before":
            await super().create(key, data)
        if fate != "answered":
            raise OutcomeUnknown(f"the answer to the create of '{key}' was lost")
