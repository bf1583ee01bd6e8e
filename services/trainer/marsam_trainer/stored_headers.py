"""What the tensors of a stored model are, without fetching it: only the headers of its files are read."""

from marsam.catalog.files import FileRef
from marsam.catalog.models import Model
from marsam.diffusion import registry
from marsam.store import keys
from marsam.store.blobs import Blobs
from marsam_trainer.weights import Tensor, header_length, parse_header


async def denoiser_tensors(blobs: Blobs, base: Model) -> dict[str, Tensor]:
    """Names and shapes of the tensors of a base's denoiser."""
    return await _part(blobs, base, registry.family_facts(base.family).denoiser_folder)


async def encoder_tensors(blobs: Blobs, base: Model) -> dict[str, dict[str, Tensor]]:
    """Likewise of those of its text encoders that take adapters, by folder."""
    return {folder: await _part(blobs, base, folder) for folder in registry.family_facts(base.family).encoders}


async def _part(blobs: Blobs, base: Model, part: str) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file in base.files:
        if file.path.startswith(f"{part}/") and file.path.endswith(".safetensors"):
            found |= await _tensors(blobs, base.project, file)
    return found


async def _tensors(blobs: Blobs, project: str, file: FileRef) -> dict[str, Tensor]:
    key = keys.blob(project, file.digest)
    prefix = await blobs.get(key, start=0, length=8)
    length = header_length(prefix, size=file.size, name=file.path)
    raw = await blobs.get(key, start=8, length=length)
    return dict(parse_header(raw, size=file.size, name=file.path).tensors)
