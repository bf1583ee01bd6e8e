"""Adapters on all parts of a base that are tuned."""
