"""Frozen base weights in 8 bits, quantised while they are read."""
