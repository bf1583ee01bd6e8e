"""Bases that come as one .safetensors file: what it holds, and the base that it makes with what it lacks (see
`completing`). What the file holds wins.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from marsam.catalog.acceptance import Acceptance
from marsam.catalog.files import FileRef
from marsam.core.errors import Invalid
from marsam.diffusion.onefile.facts import VELOCITY, ZERO_TERMINAL, Held, recognise
from marsam.store.blobs import Blobs
from marsam.store.cache import Cache
from marsam.store.content import digest_file, put_blob
from marsam_trainer import layouts, licences
from marsam_trainer.completing import Completing, Fetched, sent
from marsam_trainer.conversion import Conversion
from marsam_trainer.conversions import Converter
from marsam_trainer.import_orders import BESIDE, ImportOrder
from marsam_trainer.layouts import INDEX, Folder, Found
from marsam_trainer.onefile_card import CARD, MadeOf, stated, write
from marsam_trainer.uploads import Received
from marsam_trainer.weights import MEDIA_TYPES, Content, Header, inspect, read_header

_BESIDE = f"{BESIDE}/"

_DTYPES = frozenset({"F64", "F32", "F16", "BF16", "I64", "I32", "BOOL"})
"""What tensors of a checkpoint may be made of; the whole numbers are positions, which no part keeps."""

_SCHEDULER = "scheduler/scheduler_config.json"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A base in one file, checked as far as it can be before it is converted: what its files are to be, those of them
    that lie here, and what is still to be converted."""

    found: Found
    licence: str
    accepted: Acceptance | None
    source: str
    kept: Mapping[str, FileRef]
    here: Mapping[str, Path]
    conversion: Conversion


def the_one(received: Sequence[Received]) -> Received | None:
    """The one .safetensors file that there is but for a model card, licences and what lies `BESIDE`; None when the
    files are anything else."""
    own = [e for e in received if not e.path.startswith(_BESIDE) and not licences.is_about(e.path)]
    return own[0] if len(own) == 1 and own[0].path.endswith(".safetensors") and "/" not in own[0].path else None


def read(path: Path, *, name: str, family: str) -> tuple[Header, Held]:
    """The header of a checkpoint in one file, and what it holds. Blocking.

    Raises Invalid (ONE_FILE_DTYPE), and as `inspect` and `recognise`.
    """
    inspect(path, name=name)
    header = read_header(path, name=name)
    for key, tensor in header.tensors.items():
        if tensor.dtype not in _DTYPES or key.endswith((".weight_scale", ".scale_weight", ".comfy_quant")):
            raise Invalid(
                f"{name} is quantised: {key} is held in {tensor.dtype}",
                field="files",
                reason="ONE_FILE_DTYPE",
                remedy="take its author's bf16 or fp16 file: what was rounded to 8 bits does not come back",
            )
    return header, recognise(header.tensors, family=family)


def replaced(path: str, held: Held) -> bool:
    """Whether a file of the rest is weights, or an index of weights, of a part that the one file holds; or a checkpoint
    at the root, which is no part of a base."""
    folder, _, rest = path.partition("/")
    return ".safetensors" in (rest or folder) and (folder in held.parts or not rest)


class OneFiles:
    """Makes bases of checkpoints in one file."""

    def __init__(self, blobs: Blobs, cache: Cache, converter: Converter) -> None:
        self._blobs = blobs
        self._completing = Completing(blobs, cache)
        self._converter = converter

    async def prepare(
        self, order: ImportOrder, received: Sequence[Received], one: Received, fetched: Fetched | None, scratch: Path
    ) -> Prepared:
        """Check everything but the tensors themselves; nothing is stored yet. Raises `Invalid`."""
        header, held = await asyncio.to_thread(read, one.file, name=one.path, family=order.family)
        rest = await self._completing.rest(order, received, held, fetched, scratch)
        about = await asyncio.to_thread(sent, [e for e in received if licences.is_about(e.path)], one.path)
        own = await asyncio.to_thread(stated, order, header, one.path, about.here)
        licence = licences.of_made(own, rest.licence, field="header.licence")
        made_of = MadeOf(file=one, held=held, own=own, licence=licence, rest=rest)
        card = await asyncio.to_thread(write, made_of, about.here.get(CARD), scratch)
        rest, about = rest.set_apart(), about.with_file(CARD, card)
        kept = {path: file for path, file in {**rest.files, **about.files}.items() if not replaced(path, held)}
        here = {path: file for path, file in {**rest.here, **about.here}.items() if path in kept}
        changed = await asyncio.to_thread(_velocity, header, here, scratch)
        if changed is not None:
            kept[_SCHEDULER], here[_SCHEDULER] = changed
        found = await asyncio.to_thread(_whole, kept, here, held)
        fresh = {*about.here, *([_SCHEDULER] if changed is not None else ())}
        params = {
            "one_file": one.digest,
            "converted": ", ".join(held.parts),
            "left_out": held.left_out,
            "like": rest.name,
            "like_digest": rest.digest,
        }
        return Prepared(
            found=Found(family=found.family, params={**found.params, **params}),
            licence=licence,
            accepted=rest.accepted,
            source=f"{one.path} ({one.digest}), the rest from {rest.name}",
            kept=kept,
            here={path: file for path, file in here.items() if not rest.stored or path in fresh},
            conversion=Conversion(
                project=order.project,
                profile=self._converter.profile,
                family=held.family,
                file=FileRef(path=one.path, digest=one.digest, size=one.size),
                local=str(one.file),
                configs=tuple(kept[path] for path in _configs(held)),
            ),
        )

    async def make(self, prepared: Prepared) -> list[FileRef]:
        """Store and convert; the files of the base. Raises as `Converter.convert`."""
        order = prepared.conversion
        for path, file in sorted(prepared.here.items()):
            await put_blob(self._blobs, order.project, file, expected=prepared.kept[path].digest)
        if self._converter.elsewhere:
            await put_blob(self._blobs, order.project, Path(order.local), expected=order.file.digest)
            order = replace(order, local="")
        return [*prepared.kept.values(), *await self._converter.convert(order)]


def _velocity(header: Header, here: Mapping[str, Path], scratch: Path) -> tuple[FileRef, Path] | None:
    """The scheduler's configuration as a file wants it that says what it predicts; None where that is said already.
    Blocking."""
    if VELOCITY not in header.tensors or _SCHEDULER not in here:
        return None
    config = json.loads(here[_SCHEDULER].read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        return None
    wanted: dict[str, Any] = {"prediction_type": "v_prediction"}
    if ZERO_TERMINAL in header.tensors:
        wanted |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    if wanted.items() <= config.items():
        return None
    scratch.mkdir(parents=True, exist_ok=True)
    file = scratch / "scheduler_config.json"
    file.write_text(json.dumps({**config, **wanted}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    told = digest_file(file)
    media_type = MEDIA_TYPES[Content.JSON]
    return FileRef(path=_SCHEDULER, digest=told.digest, size=told.size, media_type=media_type), file


def _configs(held: Held) -> list[str]:
    """The JSON files that a conversion needs."""
    return [INDEX, *(f"{part}/config.json" for part in held.parts)]


def _whole(kept: Mapping[str, FileRef], here: Mapping[str, Path], held: Held) -> Found:
    """What the base will be, once the parts of the file are in it. Blocking. Raises `Invalid`."""
    absent = [path for path in _configs(held) if path not in here]
    if absent:
        raise Invalid(
            f"the file holds {', '.join(held.parts)}, and what is to have the rest of the base lacks {absent[0]}",
            field="header.like",
            reason="BASE_INCOMPLETE",
            remedy="name a whole base of the same architecture (--like)",
        )
    kinds = {".safetensors": Content.SAFETENSORS, ".json": Content.JSON}  # as `inspect` found, whoever took them in
    contents = {path: kinds.get(PurePosixPath(path).suffix, Content.TEXT) for path in kept}
    made = {f"{part}/made.safetensors": Content.SAFETENSORS for part in held.parts}
    folder = Folder(files={path: here.get(path, Path()) for path in (*kept, *made)}, contents={**contents, **made})
    return layouts.whole(folder, family=held.family)
