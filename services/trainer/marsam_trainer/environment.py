"""What a launched program inherits from this one, and a port for it to be scraped at."""

import socket
from collections.abc import Mapping


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Everything but the service's own settings; the run program knows none of them, and some are secret."""
    return {name: value for name, value in environment.items() if not name.startswith("MARSAM_")}


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
