"""Z-Image: a single-stream transformer over f8 latents of 16 channels, with a Qwen3 language model for the text."""
