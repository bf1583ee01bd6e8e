"""Marsam's generator: one base, many adapters, every request in one step loop."""
