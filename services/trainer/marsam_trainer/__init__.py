"""The trainer: a control plane without torch, the model registry, and the run program."""
