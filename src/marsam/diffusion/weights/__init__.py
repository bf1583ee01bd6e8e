"""Weights on their way from safetensors files into a module, and how many bytes they take there."""
