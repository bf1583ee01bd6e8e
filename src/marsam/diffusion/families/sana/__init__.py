"""Sana: a linear-attention transformer over f32 latents with Gemma 2 as its text encoder."""
