"""Evaluation: the same prompts and seeds for several models, a judge that reads every picture, one report."""
