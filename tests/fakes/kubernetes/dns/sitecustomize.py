"""The cluster's names, for programs of its pods: what a headless Service publishes, in a file that the nodes write."""

import os
import socket
from pathlib import Path
from typing import Any

_resolve = socket.getaddrinfo


def _lookup(host: Any, *args: Any, **how: Any) -> Any:
    if isinstance(host, str) and host.startswith("marsam-"):
        file = Path(os.environ["FAKE_CLUSTER_NAMES"])
        known = dict(line.split() for line in file.read_text().splitlines()) if file.exists() else {}
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        host = known[host]
    return _resolve(host, *args, **how)


socket.getaddrinfo = _lookup
