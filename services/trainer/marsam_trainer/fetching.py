"""What an import needs of a hub: a whole model, or what a base in one file lacks."""

import asyncio
from collections.abc import Callable, Sequence

from marsam.core.errors import Unavailable
from marsam.diffusion.onefile.facts import reference
from marsam.store.content import digest_file
from marsam_trainer import hub, licences
from marsam_trainer.completing import Fetched
from marsam_trainer.import_orders import ImportOrder
from marsam_trainer.importing import Importer
from marsam_trainer.onefile import read, replaced, the_one
from marsam_trainer.onefile_card import stated
from marsam_trainer.settings import TrainerSettings
from marsam_trainer.uploads import Received


class Fetcher:
    """Brings files of a hub to this machine. What asks to be accepted is asked before gigabytes are fetched."""

    def __init__(self, settings: TrainerSettings, importer: Importer) -> None:
        self._settings = settings
        self._importer = importer

    async def model(self, order: ImportOrder, *, by: str) -> tuple[list[Received], str]:
        """The files of `order.ref`, and what they are called. Raises as `hub.fetch` and `Importer.check_licence`."""
        snapshot = await self._snapshot(
            order,
            order.ref,
            licence=lambda found: licences.of_folder(order.licence, found, field="header.licence"),
            by=by,
        )
        return await asyncio.to_thread(_hashed, snapshot), f"{order.ref}@{snapshot.revision}"

    async def rest(self, order: ImportOrder, received: Sequence[Received], *, by: str) -> Fetched | None:
        """What a base in one file lacks, where it is to come from a hub: its `like`, or the one that the file itself
        tells. None for all other models, and where the file does not tell.

        Raises as `model`, and Unavailable (LIKE_UNREACHABLE) where nobody named it.
        """
        one = the_one(received) if order.kind == "base" else None
        if one is None or (order.like and not order.like.startswith("hub:")):
            return None
        header, held = await asyncio.to_thread(read, one.file, name=one.path, family=order.family)
        about = {entry.path: entry.file for entry in received if licences.is_about(entry.path)}
        own = await asyncio.to_thread(stated, order, header, one.path, about)
        told = reference(held, header.tensors)
        ref = order.like or (f"hub:{told}" if told else "")
        if not ref:
            return None
        try:
            snapshot = await self._snapshot(
                order,
                ref,
                wanted=lambda path: not replaced(path, held),
                licence=lambda found: licences.of_made(own, found, field="header.licence"),
                by=by,
            )
        except Unavailable as error:
            if order.like:
                raise
            raise Unavailable(
                f"the file lacks what {ref} has, and that cannot be fetched: {error.message}",
                reason="LIKE_UNREACHABLE",
                field="header.like",
                remedy="name another base that has it (--like): one of the registry, or a diffusers folder",
            ) from error
        return Fetched(name=f"{ref}@{snapshot.revision}", files=await asyncio.to_thread(_hashed, snapshot))

    async def _snapshot(
        self,
        order: ImportOrder,
        ref: str,
        *,
        licence: Callable[[licences.Stated | None], str],
        by: str,
        wanted: Callable[[str], bool] = lambda path: True,
    ) -> hub.Snapshot:
        """The files of a hub, once the `licence` of what is made with what they state is accepted."""
        settings = self._settings

        async def fetch(*, about: bool) -> hub.Snapshot:
            return await hub.fetch(
                hub.parse_ref(ref),
                cache=settings.hub_cache,
                offline=settings.hub_offline,
                timeout_s=settings.hub_timeout_s,
                about=about,
                wanted=wanted,
            )

        few = await fetch(about=True)
        found = await asyncio.to_thread(licences.stated, {path: few.folder / path for path in few.paths})
        await self._importer.check_licence(order, licence(found), by=by)
        return await fetch(about=False)


def _hashed(snapshot: hub.Snapshot) -> list[Received]:
    """The files of a snapshot. Blocking."""
    found = []
    for path in snapshot.paths:
        file = snapshot.folder / path
        digested = digest_file(file)
        found.append(Received(path=path, file=file, digest=digested.digest, size=digested.size))
    return found
