"""Captions as text: their two forms, and the language they are really in."""
