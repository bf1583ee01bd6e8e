"""Training against loops written as diffusers' examples write them. See `__main__`."""
