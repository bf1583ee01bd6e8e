"""Lengths beside low-rank pairs."""
