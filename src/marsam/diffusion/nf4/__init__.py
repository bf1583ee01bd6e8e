"""Frozen base weights in 4-bit NormalFloat, quantised while they are read."""
