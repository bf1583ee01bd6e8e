"""Marsam: teach a text-to-image model a world it was never shown, and prove that it learned it."""
