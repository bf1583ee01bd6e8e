"""Trains everything that Hayy ships from nothing but Hayy: tokenizer, autoencoder, base, judge."""
