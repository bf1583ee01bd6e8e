"""Where the three services are: given, named by the environment, or written down by `marsam up`."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from marsam.core.errors import Corrupt, Unavailable

HOME = ".marsam"
FILE = "endpoints.json"
VARIABLE = "MARSAM_ENDPOINTS"
SERVICES = ("dataset", "trainer", "generator")


@dataclass(frozen=True, kw_only=True)
class Endpoints:
    """gRPC addresses: `host:port`, `dns:///name:port`, or `https://host:port` for TLS."""

    dataset: str
    trainer: str
    generator: str


def find(*, env: Mapping[str, str] | None = None, folder: Path | None = None) -> Endpoints:
    """The endpoints of the file that MARSAM_ENDPOINTS names, else of `.marsam/endpoints.json` in `folder` (the working
    directory) or the nearest folder above it.

    Raises Unavailable with the way to start the services when there is none.
    """
    named = (os.environ if env is None else env).get(VARIABLE)
    if named:
        return read(Path(named))
    start = (folder or Path.cwd()).resolve()
    for above in (start, *start.parents):
        candidate = above / HOME / FILE
        if candidate.is_file():
            return read(candidate)
    raise Unavailable(
        f"no running Marsam: there is no {HOME}/{FILE} in {start} or above it",
        reason="NOT_RUNNING",
        remedy="start it with 'marsam up' in another terminal, or name its file with MARSAM_ENDPOINTS",
    )


def read(path: Path) -> Endpoints:
    """The endpoints that `marsam up` wrote to `path`."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Endpoints(**{service: content[service]["grpc"] for service in SERVICES})
    except FileNotFoundError as error:
        raise Unavailable(
            f"no running Marsam: {path} does not exist",
            reason="NOT_RUNNING",
            remedy="start it with 'marsam up'",
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Corrupt(
            f"{path} does not name the three services: {type(error).__name__} {error}",
            reason="ENDPOINTS_UNREADABLE",
            remedy="stop and start 'marsam up'",
        ) from error
