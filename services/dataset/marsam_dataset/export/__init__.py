"""Versions in the folder layouts that other tools read: one file per format, found by its name."""
