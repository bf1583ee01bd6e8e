"""A tiny base that was tuned, and its adapter as it goes out."""

import asyncio
import contextlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from marsam_trainer.exports import export
from marsam_trainer.weights import Tensor, read_header

from marsam.catalog.files import FileRef
from marsam.catalog.models import Model
from marsam.catalog.repository import save_model
from marsam.core.errors import Exists
from marsam.store.cache import Cache
from marsam.store.content import put_blob
from marsam.store.folder import FolderBlobs
from tests.contract.families import rig as rigs

BASE = "projects/p/models/b"


class Tuned:
    """A family's tiny base tuned for a few steps, its adapter stored as a model."""

    def __init__(self, base: Path, name: str, folder: Path, **params: Any) -> None:
        self.base, self.folder = base, folder
        self.rig = rigs.load(base, name, "lora", params=params)
        rigs.taught(self.rig)
        self.said = rigs.predict(self.rig.family, self.rig.parts)
        self.rig.save(folder / "adapter")
        self.blobs = FolderBlobs(folder / "store")

    @property
    def part(self) -> str:
        return self.rig.family.facts.denoiser_folder

    def exported(self, dialect: str) -> Path:
        """The adapter's one file in a dialect."""

        async def work() -> Path:
            files = []
            for path, file in self.stored().items():
                stored = await put_blob(self.blobs, "p", file)
                files.append(FileRef(path=path, digest=stored.digest, size=stored.size))
            stored = await put_blob(self.blobs, "p", next((self.base / self.part).glob("*.safetensors")))
            file = FileRef(path=f"{self.part}/w.safetensors", digest=stored.digest, size=stored.size)
            base = Model(
                name=BASE, kind="base", create_time=datetime.now(UTC), files=(file,),
                family=self.rig.family.facts.name,
            )  # fmt: skip
            with contextlib.suppress(Exists):
                await save_model(self.blobs, base)
            model = Model(
                name="projects/p/models/a", kind="adapter", create_time=datetime.now(UTC), files=tuple(files),
                family=self.rig.family.facts.name, method="lora", base=BASE, base_digest=base.digest,
            )  # fmt: skip
            scratch = self.folder / dialect
            scratch.mkdir()
            (one,) = await export(self.blobs, Cache(self.folder / "cache"), model, dialect=dialect, scratch=scratch)
            assert one.local is not None
            return one.local

        return asyncio.run(work())

    def says(self, denoiser: Any) -> torch.Tensor:
        """What another denoiser says of the same."""
        return rigs.predict(self.rig.family, rigs.with_denoiser(self.rig.parts, denoiser))

    def stored(self) -> dict[str, Path]:
        """The adapter's files as they are stored."""
        root = self.folder / "adapter"
        return {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}

    def denoiser_tensors(self) -> dict[str, Tensor]:
        return self._tensors(self.part)

    def encoder_tensors(self) -> dict[str, dict[str, Tensor]]:
        return {folder: self._tensors(folder) for folder in self.rig.family.facts.encoders}

    def _tensors(self, folder: str) -> dict[str, Tensor]:
        return {
            key: tensor
            for file in (self.base / folder).glob("*.safetensors")
            for key, tensor in read_header(file, name=file.name).tensors.items()
        }
