"""Prompts and what becomes of them: a base's text encoders, the adapters on them, and the encodings of late.

One thread encodes, because tokenizers are not thread-safe; adapters come and go on it too, so never under a forward.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

import torch

from marsam.core.errors import Invalid
from marsam.diffusion.adapter.net import Adapter
from marsam.diffusion.adapter.parts.net import named_as
from marsam.diffusion.conditionings import filled, join
from marsam.diffusion.sampling import Picture
from marsam.diffusion.spec import Components, Conditioning, Family
from marsam_generator.engine.bank import AdapterBank, PreparedAdapter
from marsam_generator.engine.ending import on

T = TypeVar("T")

PROMPTS_KEPT = 512
BYTES_KEPT = 256 * 2**20
"""Of prompts that are remembered: one of T5's is 8 MiB, in the device's memory."""
TOKENS = 64
"""Prompts of a base that masks are filled up to a multiple of this: pictures share ticks only when they are as long."""


class Reader:
    """The text encoders of one base. Methods are called from one event loop, but for `prepare`. What waits when it is
    closed, or comes later, raises `Unavailable`."""

    def __init__(self, family: Family, parts: Components) -> None:
        self._family = family
        self._parts = parts
        self._banks = {
            folder: AdapterBank(parts.text[folder]) for folder in family.facts.encoders if folder in parts.text
        }
        self._prompts: OrderedDict[tuple[object, ...], Conditioning] = OrderedDict()
        self._prompt_bytes = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="marsam-encode")

    def prepare(self, key: str, adapter: Adapter) -> dict[str, PreparedAdapter]:
        """An adapter's share of the text encoders, by folder, checked. Raises as `AdapterBank.prepare`."""
        strange = sorted(set(adapter.text) - set(self._banks))
        if strange:
            raise Invalid(
                f"the adapter changes {strange[0]}, which is no text encoder of this base that takes one",
                reason="ADAPTER_TEXT_ENCODER",
                resource=key,
                remedy="use it with the base that it was trained on",
            )
        return {
            folder: self._banks[folder].prepare(key, named_as(self._parts.text[folder], own))
            for folder, own in adapter.text.items()
        }

    async def install(self, adapters: Mapping[str, PreparedAdapter]) -> None:
        """Make what was prepared usable."""

        def put() -> None:
            for folder, one in adapters.items():
                self._banks[folder].install(one)

        await self._there(put)

    async def evict(self, key: str) -> None:
        """Forget an adapter; nothing happens when no encoder has it."""

        def forget() -> None:
            for bank in self._banks.values():
                if key in bank.resident:
                    bank.evict(key)

        await self._there(forget)

    async def read(
        self, pictures: Sequence[Picture], adapters: Mapping[str, float]
    ) -> tuple[Conditioning, Conditioning | None]:
        """The conditionings of the pictures' prompts and, if any is guided, of their negatives, as the encoders read
        them under `adapters`: key → weight.

        Both are of one length, that of the longest: so pictures that share a forward have it all, and none is filled up
        further for its neighbours' sake.
        """

        def encode() -> tuple[Conditioning, Conditioning | None]:
            prompts, negatives = [one.prompt for one in pictures], [one.negative for one in pictures]
            if not any(picture.guided for picture in pictures):
                return self._texts(prompts, adapters), None
            both = self._texts([*prompts, *negatives], adapters)
            return both.rows(slice(0, len(prompts))), both.rows(slice(len(prompts), None))

        return await self._there(encode)

    def close(self) -> None:
        """End the thread; what waits for it is given up."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _texts(self, texts: Sequence[str], adapters: Mapping[str, float]) -> Conditioning:
        """Conditioning of every text, one row each; each text is encoded once for each use of adapters."""
        resident = set().union(*(bank.resident for bank in self._banks.values()))
        # In one order, because what is remembered serves whoever asks for the same in another, to the last bit.
        use = {key: adapters[key] for key in sorted(adapters) if adapters[key] != 0 and key in resident}
        under = frozenset(use.items())
        for text in dict.fromkeys(texts):
            if (text, under) not in self._prompts:
                read = self._prompts[text, under] = self._encode(text, use)
                self._prompt_bytes += read.nbytes
            self._prompts.move_to_end((text, under))
        found = [self._prompts[text, under] for text in texts]
        while len(self._prompts) > PROMPTS_KEPT or self._prompt_bytes > BYTES_KEPT:
            self._prompt_bytes -= self._prompts.popitem(last=False)[1].nbytes
        return join(found)

    def _encode(self, text: str, use: Mapping[str, float]) -> Conditioning:
        with torch.no_grad(), ExitStack() as stack:
            for bank in self._banks.values():
                stack.enter_context(bank.rows([{key: use[key] for key in use if key in bank.resident}]))
            # Alone, so that a prompt's states do not depend on what happened to be asked together.
            return filled(self._family.encode_text(self._parts, [text]), TOKENS)

    async def _there(self, work: Callable[[], T]) -> T:
        return await on(self._thread, work)
