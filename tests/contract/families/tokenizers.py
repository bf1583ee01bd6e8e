"""Small real tokenizers, built in code: what a base's folder may hold."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import CLIPTokenizer, PreTrainedTokenizerFast, T5TokenizerFast

from tests.contract.families.bases import byte_letters

ENGLISH = ("a", "man", "in", "lab", "red", "kite", "the", "blue", "door", "of", "with", "old")


def t5_without_arabic(folder: Path, *, length: int = 512) -> Path:
    """A T5 tokenizer that knows some English words and Latin letters: any other word is one unknown token."""
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    pieces = [("▁", -2.0), *((f"▁{word}", -3.0) for word in ENGLISH), *((letter, -8.0) for letter in letters)]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces]
    tokenizer = T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=length)
    tokenizer.save_pretrained(folder)
    return folder


def words_only(folder: Path) -> Path:
    """A BPE without an unknown token over Latin letters: what it does not know is dropped without a trace."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    inner = Tokenizer(models.BPE(vocab={letter: row for row, letter in enumerate(letters)}, merges=[]))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.decoder = decoders.Fuse()
    PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=64).save_pretrained(folder)
    return folder


def clip(folder: Path, *, letters: str = "") -> Path:
    """A CLIP tokenizer of CLIP's length without merges: every byte a token, or only `letters`, all else unknown."""
    known = [*letters] or byte_letters()
    words = [*known, *(letter + "</w>" for letter in known), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={word: row for row, word in enumerate(words)}, merges=[], model_max_length=77).save_pretrained(
        folder
    )
    return folder
