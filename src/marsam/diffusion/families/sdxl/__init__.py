"""Stable Diffusion XL: a UNet over f8 latents with two CLIP text encoders, told how its picture was cut."""
