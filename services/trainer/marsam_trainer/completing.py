"""What a base in one file lacks, from a base that the caller names (`like`): one of the registry, or files that arrive
beside it, from the caller's folder or from a hub."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from marsam.catalog.acceptance import Acceptance
from marsam.catalog.aliases import resolve
from marsam.catalog.files import FileRef, tree_digest
from marsam.core.errors import Invalid
from marsam.diffusion.onefile.facts import Held
from marsam.store.blobs import Blobs
from marsam.store.cache import Cache
from marsam.store.content import digest_file
from marsam_trainer import licences
from marsam_trainer.import_orders import BESIDE, ImportOrder
from marsam_trainer.layouts import INDEX
from marsam_trainer.uploads import Received
from marsam_trainer.weights import MEDIA_TYPES, Content, inspect

APART = "like/"
"""Where the card and the licence texts of what has the rest are kept: they are not the base's own."""

_BESIDE = f"{BESIDE}/"


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """Files of a base that a hub has, and what they are called: `hub:org/name@commit`."""

    name: str
    files: Sequence[Received]


@dataclass(frozen=True, kw_only=True)
class Rest:
    """What a base needs beside the one file: `here` are those of its files that lie on this machine, its JSON at
    least; those in `stored` are in the store already. `digest` is of the model, or of the files that came."""

    name: str
    digest: str
    licence: licences.Stated | None
    accepted: Acceptance | None
    files: Mapping[str, FileRef]
    here: Mapping[str, Path]
    stored: bool

    def set_apart(self) -> "Rest":
        """The same, its card and licence texts below `APART`."""

        def place(path: str) -> str:
            return f"{APART}{path}" if licences.is_about(path) or path.startswith(APART) else path

        files = {place(path): replace(file, path=place(path)) for path, file in self.files.items()}
        return replace(self, files=files, here={place(path): file for path, file in self.here.items()})

    def with_file(self, path: str, file: Path) -> "Rest":
        """The same with a text of this machine at `path`. Blocking."""
        told = digest_file(file)
        ref = FileRef(path=path, digest=told.digest, size=told.size, media_type=MEDIA_TYPES[Content.TEXT])
        return replace(self, files={**self.files, path: ref}, here={**self.here, path: file})


class Completing:
    """Finds what a file lacks."""

    def __init__(self, blobs: Blobs, cache: Cache) -> None:
        self._blobs = blobs
        self._cache = cache

    async def rest(
        self, order: ImportOrder, received: Sequence[Received], held: Held, fetched: Fetched | None, scratch: Path
    ) -> Rest:
        """What `order.like` names; nothing of it is stored. Raises `Invalid`, and Missing as `resolve`."""
        if order.like != BESIDE and any(entry.path.startswith(_BESIDE) for entry in received):
            raise Invalid(
                f"files were sent in {_BESIDE}, and the rest of the base is to come from elsewhere",
                field="header.like",
                reason="LIKE_UNUSED",
                remedy=f"say like: {BESIDE}",
            )
        if fetched is not None:
            return await asyncio.to_thread(sent, fetched.files, fetched.name)
        if order.like == BESIDE:
            files = [
                replace(entry, path=entry.path.removeprefix(_BESIDE))
                for entry in received
                if entry.path.startswith(_BESIDE)
            ]
            return await asyncio.to_thread(sent, files, "a folder sent beside it")
        if order.like:
            return await self._registered(order, held, scratch)
        raise Invalid(
            f"a file holds no configuration and no tokenizer, and which ones of {held.family} this one needs cannot "
            "be told from it",
            field="header.like",
            reason="LIKE_REQUIRED",
            remedy="name a base that has them (--like): one of the registry, a diffusers folder, or hub:org/name",
        )

    async def _registered(self, order: ImportOrder, held: Held, scratch: Path) -> Rest:
        model = await resolve(self._blobs, order.like)
        faults = {
            "LIKE_KIND": model.kind not in ("base", "full") and f"is of kind {model.kind}, not a base",
            "OTHER_PROJECT": model.project != order.project and "is in another project",
            "FAMILY_MISMATCH": model.family != held.family
            and f"is of family {model.family}, and the file holds a {held.family}",
        }
        for reason, fault in faults.items():
            if fault:
                raise Invalid(f"{order.like} {fault}", field="header.like", reason=reason)
        texts = [file for file in model.files if file.path.endswith(".json")]
        folder = await self._cache.lay_out(self._blobs, order.project, texts, scratch / "like")
        return Rest(
            name=model.name,
            digest=model.digest,
            licence=licences.Stated(licence=model.licence, file=model.name) if model.licence else None,
            accepted=model.accepted,
            files={file.path: file for file in model.files},
            here={file.path: folder / file.path for file in texts},
            stored=True,
        )


def sent(received: Sequence[Received], name: str) -> Rest:
    """The rest of a base, from files that lie here. Blocking. Raises as `inspect`."""
    here = {entry.path: entry.file for entry in received}
    files = {
        entry.path: FileRef(
            path=entry.path,
            digest=entry.digest,
            size=entry.size,
            media_type=MEDIA_TYPES[inspect(entry.file, name=entry.path)],
        )
        for entry in received
    }
    index = json.loads(here[INDEX].read_text(encoding="utf-8")) if INDEX in here else None
    return Rest(
        name=name,
        digest=tree_digest(files.values()),
        licence=licences.stated(here, index if isinstance(index, dict) else None),
        accepted=None,
        files=files,
        here=here,
        stored=False,
    )
