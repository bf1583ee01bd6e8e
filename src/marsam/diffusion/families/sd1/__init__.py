"""Stable Diffusion 1 and 2 shapes: a UNet over f8 latents with one CLIP text encoder."""
