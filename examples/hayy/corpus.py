"""Captions for training: any caption but a prompt of the suite."""

from __future__ import annotations

from random import Random

from hayy.attributes import Attributes
from hayy.captions import caption
from hayy.suite import held_out_prompts


def training_caption(attributes: Attributes, rng: Random, *, language: str, world: str) -> str:
    """Return a caption (see `caption`) that is no prompt of the evaluation suite."""
    while (text := caption(attributes, rng, language=language, world=world)) in held_out_prompts():
        pass
    return text
