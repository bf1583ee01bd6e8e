"""Trains the tokenizer: byte-level BPE in CLIP's form, in which every word of Hayy is one token.

    python -m hayy.training.tokenizer FOLDER

Writes vocab.json, merges.txt, tokenizer.json and tokenizer_config.json: some loaders read the first two,
some the third.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from hayy.captions import caption
from hayy.world import sample

MAX_TOKENS = 32
START, END = "<|startoftext|>", "<|endoftext|>"
_SUFFIX = "</w>"


def learn_merges(texts: list[str]) -> list[tuple[str, str]]:
    """Learn merges until every word of `texts` is one token."""
    clip = CLIPTokenizer(vocab={START: 0, END: 1}, merges=[]).backend_tokenizer
    learner = Tokenizer(models.BPE(end_of_word_suffix=_SUFFIX))
    assert isinstance(clip.normalizer, normalizers.Normalizer)
    assert isinstance(clip.pre_tokenizer, pre_tokenizers.PreTokenizer)
    learner.normalizer, learner.pre_tokenizer = clip.normalizer, clip.pre_tokenizer
    learner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=8192,
            initial_alphabet=sorted(ByteLevel.alphabet()),
            end_of_word_suffix=_SUFFIX,
            show_progress=False,
        ),
    )
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]


def build(folder: Path, *, captions: int = 40_000) -> CLIPTokenizer:
    """Train on captions of every world, held-out words included, and write the tokenizer into `folder`."""
    texts = []
    for seed in range(captions):
        world = ("base", "independent", "balanced")[seed % 3]
        person = sample(Random(seed), world)
        texts.append(caption(person, Random(-seed), language=("en", "ar")[seed // 3 % 2], world=world))
    merges = learn_merges(texts)
    # A learned vocabulary lacks the bytes that never end a word in training; an unknown letter would become
    # the end of the text and move CLIP's pooled position. So all bytes, in both forms, come first.
    alphabet = sorted(ByteLevel.alphabet())
    tokens = [*alphabet, *(byte + _SUFFIX for byte in alphabet), *(left + right for left, right in merges)]
    unique = list(dict.fromkeys(tokens))
    vocabulary = {token: index for index, token in enumerate([*unique, START, END])}
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tokenizer


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    tokenizer = build(options.folder / "tokenizer")
    print(f"{len(tokenizer)} tokens")


if __name__ == "__main__":
    main()
