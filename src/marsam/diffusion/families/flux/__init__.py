"""FLUX.1: a transformer over packed f8 latents, told the caption by T5's tokens and CLIP's pooled vector."""
