"""The `marsam` command: thin over `marsam.client`."""

import os

# Read when grpc is imported: its own lines about a stranger's failed handshake have no place among ours.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
