"""Checkpoints in one file, as other programs write and read them: what they hold, and how they become a base."""
