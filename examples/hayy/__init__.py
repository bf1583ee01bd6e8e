"""Hayy: a small drawn quarter of people at work, with captions in English and Arabic."""
