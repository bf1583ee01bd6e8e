"""What a launched program inherits from this one, and a port for it to be scraped at."""

import socket
from collections.abc import Mapping

from marsam.store.settings import s3_variables


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Everything but the service's own settings, of which the run program knows only how the store is reached."""
    own = {name: value for name, value in environment.items() if not name.startswith("MARSAM_")}
    return own | s3_variables(environment)


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
