"""Small tokenizers of the real classes, for tiny bases."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer

QWEN_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

CHAT = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
"""What Qwen3's own chat template comes to for messages of a user alone."""


def write_qwen(folder: Path, *, length: int, words: Sequence[str] = (), chat: str | None = CHAT) -> int:
    """A Qwen tokenizer that knows every byte, and `words` (with a leading space where they have one) as one token
    each. Returns the size of its vocabulary."""
    vocabulary = [*sorted(ByteLevel.alphabet())]
    merges: list[tuple[str, str]] = []
    for word in words:
        letters = word.replace(" ", "Ġ")
        for end in range(1, len(letters)):
            pair = (letters[:end], letters[end])
            if "".join(pair) not in vocabulary:
                vocabulary.append("".join(pair))
                merges.append(pair)
    vocabulary += QWEN_SPECIAL
    tokenizer = Qwen2Tokenizer(
        vocab={word: row for row, word in enumerate(vocabulary)},
        merges=merges,
        extra_special_tokens=list(QWEN_SPECIAL[1:]),
        model_max_length=length,
        chat_template=chat,
    )
    tokenizer.save_pretrained(folder)
    return len(vocabulary)
