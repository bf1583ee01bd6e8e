"""Qwen-Image: a transformer of two streams over f8 latents of 16 channels, with Qwen2.5-VL for the text."""
