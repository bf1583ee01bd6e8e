"""Marsam's generator: one base, many adapters, every request in one step loop."""

import os

# Read when grpc is imported: its own lines about a stranger's failed handshake have no place among ours.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
