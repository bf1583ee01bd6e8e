"""Stable Diffusion 3 and 3.5: a transformer over joint blocks of picture and caption, with two CLIP encoders and T5."""
