"""The trainer: a control plane without torch, the model registry, and the run program."""

import os

# Read when grpc is imported: its own lines about a stranger's failed handshake have no place among ours.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
