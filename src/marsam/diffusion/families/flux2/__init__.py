"""FLUX.2: a transformer over normalised f16 latents, told the caption by three layers of a language model (Qwen3 for
klein, Mistral 3 for dev)."""
