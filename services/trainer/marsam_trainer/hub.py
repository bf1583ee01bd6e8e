"""Bases from a model hub by `hub:org/name`, or from its local cache when the hub does not answer.

Only what Marsam stores is fetched: JSON, text and safetensors of the pipeline's folders, its card and its licence.
Weights in another variant (fp16 beside fp32), whole-pipeline checkpoints, pickles and other runtimes' files stay where
they are.
"""

import asyncio
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from marsam.core.errors import Denied, Invalid, Missing, Unavailable
from marsam_trainer.licences import is_about

_REF = re.compile(r"hub:([A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)")
_SUFFIXES = frozenset({".json", ".txt", ".safetensors"})
_FOREIGN_FOLDERS = frozenset({"onnx", "openvino", "flax", "coreml"})
_VARIANT = re.compile(r"(.+?)\.(fp16|fp32|bf16|non_ema|ema)((?:-\d{5}-of-\d{5})?\.safetensors(?:\.index\.json)?)")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Files of one commit on this machine: the folder they are in, their paths below it, and the commit."""

    folder: Path
    paths: tuple[str, ...]
    revision: str


def parse_ref(ref: str) -> str:
    """The repository of `hub:org/name`. Raises `Invalid`."""
    match = _REF.fullmatch(ref)
    if match is None or ".." in ref:
        raise Invalid(
            f"'{ref}' names no model on a hub", field="header.ref", reason="REF_MALFORMED", remedy="hub:org/name"
        )
    return match.group(1)


def select(paths: Iterable[str]) -> list[str]:
    """Which of a repository's files make up the model, sorted."""
    known = [path for path in paths if PurePosixPath(path).suffix in _SUFFIXES or is_about(path)]
    if "model_index.json" in known:
        known = [path for path in known if "/" in path or path == "model_index.json" or is_about(path)]
    known = [p for p in known if not any(s.startswith(".") or s in _FOREIGN_FOLDERS for s in PurePosixPath(p).parts)]
    plain = {path for path in known if _VARIANT.fullmatch(path) is None}
    return sorted(path for path in known if not _superseded(path, plain))


def _superseded(path: str, plain: set[str]) -> bool:
    """Say whether `path` is a variant of weights that are there without a variant too, in one file or in shards."""
    match = _VARIANT.fullmatch(path)
    if match is None:
        return False
    stem = match.group(1)
    return f"{stem}.safetensors" in plain or f"{stem}.safetensors.index.json" in plain


async def fetch(
    repository: str,
    *,
    cache: Path | None,
    offline: bool,
    timeout_s: float,
    about: bool = False,
    wanted: Callable[[str], bool] = lambda path: True,
) -> Snapshot:
    """Bring the model's files, or those `about` it only, or those of them that are `wanted`, into the hub's local cache
    layout (`cache`, or HF_HOME's) and say where they are.

    Raises Missing (HUB_UNKNOWN) for a repository that is neither on the hub nor in the cache, Denied (HUB_GATED),
    Unavailable (HUB_UNREACHABLE).
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.to_thread(_fetch, repository, cache, offline, about, wanted)
    except TimeoutError as error:
        raise Unavailable(f"the hub did not deliver {repository} within {timeout_s:g} s", reason="HUB_SLOW") from error


def _fetch(repository: str, cache: Path | None, offline: bool, about: bool, wanted: Callable[[str], bool]) -> Snapshot:
    # Imported here: the library is 35 MB of memory that most trainers never need.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    there = None
    try:
        if not offline:
            there = _remote_paths(repository)
            if there is not None:
                there = [path for path in there if wanted(path) and (is_about(path) or not about)]
                if about and not there:  # nothing to fetch, so there would be no folder either
                    return Snapshot(folder=Path(), paths=(), revision="")
        folder = Path(
            snapshot_download(repository, cache_dir=cache, local_files_only=there is None, allow_patterns=there)
        )
    except GatedRepoError as error:
        raise Denied(
            f"{repository} is gated",
            reason="HUB_GATED",
            remedy="accept its terms on the hub and give the trainer a token in HF_TOKEN",
        ) from error
    except RepositoryNotFoundError as error:
        raise Missing(
            f"the hub has no model {repository}, or hides it",
            reason="HUB_UNKNOWN",
            remedy="check the spelling; a private model needs a token in HF_TOKEN",
        ) from error
    except LocalEntryNotFoundError as error:
        raise Unavailable(
            f"{repository} is not whole in the local cache and the hub {'is off' if offline else 'does not answer'}",
            reason="HUB_UNREACHABLE",
            remedy="fetch it where there is a network (hf download), or import a local folder",
        ) from error
    except (HfHubHTTPError, HTTPError, OSError) as error:
        raise Unavailable(
            f"the hub did not deliver {repository}: {type(error).__name__}", reason="HUB_UNREACHABLE"
        ) from error
    present = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    paths = (path for path in select(present) if wanted(path) and (is_about(path) or not about))
    return Snapshot(folder=folder, paths=tuple(paths), revision=folder.name)


def _remote_paths(repository: str) -> list[str] | None:
    """The files worth fetching, or None when nobody answers and only the local cache is left."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HTTPError, RepositoryNotFoundError

    try:
        return select(HfApi().list_repo_files(repository))
    except (GatedRepoError, RepositoryNotFoundError):
        raise
    except (HfHubHTTPError, HTTPError, OSError):
        return None
