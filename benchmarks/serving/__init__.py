"""The generator's engine against what one would write without it: see `__main__`."""
