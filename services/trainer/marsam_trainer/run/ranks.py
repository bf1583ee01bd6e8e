"""The processes that take a run's steps together: each is a rank, all of them are the world.

torchrun tells a rank who it is by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Numbers that decide
something (a stop, a loss, a digest) travel by gloo, gradients by the device's own means: gloo on a CPU, NCCL on GPUs.
A rank that dies closes its connections, so the others hear of it at their next word to each other; what only falls
silent is given up after `PATIENCE_S`.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from marsam.core.errors import Corrupt, Invalid, MarsamError, Unavailable
from marsam.diffusion.lanes.net import cuts
from marsam_trainer.run.codes import RANK_LOST_REASON

PATIENCE_S = 1200.0
"""How long a rank waits for the others' next word: a step, a preview, or a part of a checkpoint."""

PREPARING_S = 86400.0
"""The same while pictures and captions are encoded, files fetched, or one checkpoint waits for another."""

BEAT_S = 1.0
"""How often a rank says that it lives, to those who ask whom they lost."""

BUCKET = 1 << 24
"""Numbers that are added up at once: 64 MiB of fp32 beside the gradients."""


class World:
    """One process that is all the world: every word to the others comes back as it is."""

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes: to the store, to the log of events, to the metrics."""
        return self.rank == 0

    def rows(self, count: int) -> slice | None:
        """Which of `count` rows are this rank's; None when there are too few for it to have any."""
        mine = cuts(count, self.size)
        return mine[self.rank] if self.rank < len(mine) else None

    def any(self, flag: bool) -> bool:
        """Whether any rank says so. All ranks must ask."""
        return flag

    def any_prepared(self, flag: bool) -> bool:
        """The same after work that may take hours: no rank goes on before all have come here."""
        return flag

    def meet(self) -> None:
        """Go on when all ranks have come here."""
        self.any_prepared(False)

    def totals(self, numbers: Sequence[float]) -> list[float]:
        """The sums of each number over all ranks."""
        return list(numbers)

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put the sum over all ranks into each tensor; equal bits on every rank."""

    def told(self, value: Any) -> Any:
        """What the first rank says; others' `value` is ignored. Plain data only."""
        return value

    def gathered(self, value: Any) -> list[Any]:
        """What every rank says, in their order. Plain data only."""
        return [value]

    def same(self, what: str, sums: Mapping[str, int]) -> None:
        """Raise `Corrupt` (RANKS_DIFFER) unless every rank says the same."""
        for rank, theirs in enumerate(self.gathered(dict(sums))):
            odd = sorted(name for name in {*theirs, *sums} if theirs.get(name) != sums.get(name))
            if odd:
                raise Corrupt(
                    f"{what}: ranks {rank} and {self.rank} differ in {len(odd)} of {len(sums)}, first {odd[0]}",
                    reason="RANKS_DIFFER",
                    remedy="look for a faulty device or memory among the run's machines",
                )


ALONE = World()


class Ranks(World):
    """One of several ranks; see `joined`."""

    def __init__(self, store: dist.Store, *, rank: int, size: int, local_rank: int, local_size: int) -> None:
        self.rank, self.size, self.local_rank, self.local_size = rank, size, local_rank, local_size
        self._store = store
        self._words = dist.new_group(backend="gloo", timeout=timedelta(seconds=PATIENCE_S))
        self._slow = dist.new_group(backend="gloo", timeout=timedelta(seconds=PREPARING_S))
        self._gone = threading.Event()
        threading.Thread(target=self._beat, name="run.rank", daemon=True).start()

    def any(self, flag: bool) -> bool:
        return self._any(flag, self._words)

    def any_prepared(self, flag: bool) -> bool:
        return self._any(flag, self._slow)

    def _any(self, flag: bool, group: Any) -> bool:
        value = torch.tensor(int(flag))
        dist.all_reduce(value, op=dist.ReduceOp.MAX, group=group)
        return bool(value)

    def totals(self, numbers: Sequence[float]) -> list[float]:
        value = torch.tensor(list(numbers), dtype=torch.float64)
        dist.all_reduce(value, group=self._words)
        return [float(number) for number in value]

    def add(self, tensors: Sequence[torch.Tensor]) -> None:
        bucket: list[torch.Tensor] = []
        for tensor in tensors:
            if bucket and sum(part.numel() for part in bucket) + tensor.numel() > BUCKET:
                self._add(bucket)
                bucket = []
            bucket.append(tensor)
        if bucket:
            self._add(bucket)

    @torch.no_grad()
    def _add(self, bucket: list[torch.Tensor]) -> None:
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        dist.all_reduce(flat)
        for tensor, part in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def told(self, value: Any) -> Any:
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._words)
        return box[0]

    def gathered(self, value: Any) -> list[Any]:
        every: list[Any] = [None] * self.size
        dist.all_gather_object(every, value, group=self._words)
        return every

    def _beat(self) -> None:
        count = 0
        while not self._gone.wait(BEAT_S):
            count += 1
            try:
                self._store.set(f"beat/{self.rank}", str(count))
            except RuntimeError:  # whoever held the store is gone; so will the others be
                return

    def _silent(self) -> list[int]:
        """The ranks that no longer say that they live."""
        others = [rank for rank in range(self.size) if rank != self.rank]
        before = [self._heard(rank) for rank in others]
        time.sleep(3 * BEAT_S)
        return [rank for rank, then in zip(others, before, strict=True) if self._heard(rank) == then]

    def _heard(self, rank: int) -> bytes:
        key = f"beat/{rank}"
        return bytes(self._store.get(key)) if self._store.check([key]) else b""

    def lost(self, error: Exception) -> MarsamError:
        """What a broken word between ranks means: which of them is gone."""
        try:
            silent = self._silent()
            who = f"rank{'s' * (len(silent) > 1)} {', '.join(map(str, silent))}" if silent else "a rank"
        except RuntimeError:
            who = "the rank that held the world together"
        return Unavailable(
            f"{who} of {self.size} ended or fell silent; rank {self.rank} heard: {str(error).splitlines()[0][:200]}",
            reason=RANK_LOST_REASON,
            remedy="its own log says why; the run goes on from its last checkpoint",
        )

    def close(self) -> None:
        """Leave in good order."""
        self._gone.set()
        dist.destroy_process_group()


def local_rank() -> int:
    """Which of its machine's ranks this process is: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextlib.contextmanager
def joined(processes: int, *, device: str) -> Iterator[World]:
    """The world of `processes` ranks, once all are there. Raises `Invalid` (WORLD_SIZE) when the environment tells of
    another number, `Unavailable` (RANK_LOST) when a rank does not come, or goes while this one works."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size != processes:
        raise Invalid(
            f"the run is ordered for {processes} processes, and {size} were started",
            field="processes",
            reason="WORLD_SIZE",
            remedy=f"start it by torchrun with {processes} processes in all",
        )
    if size == 1:
        yield ALONE
        return
    ranks: Ranks | None = None
    try:
        patience = timedelta(seconds=PATIENCE_S)
        rank, local_size = int(os.environ["RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", str(size)))
        store, _, _ = next(dist.rendezvous("env://", timeout=patience))
        if device.startswith("cuda"):
            if local_rank() >= torch.cuda.device_count():
                raise Invalid(
                    f"rank {rank} has no GPU of its own: its machine has {torch.cuda.device_count()}",
                    field="processes",
                    reason="GPU_ABSENT",
                    remedy="order fewer processes, or more machines",
                )
            torch.cuda.set_device(torch.device(device))
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=patience)
        ranks = Ranks(
            dist.PrefixStore("marsam", store), rank=rank, size=size, local_rank=local_rank(), local_size=local_size
        )
        yield ranks
    except RuntimeError as error:
        if not of_words(error):
            raise
        if ranks is None:
            raise Unavailable(
                f"the {size} ranks did not find each other: {str(error)[:300]}", reason=RANK_LOST_REASON
            ) from error
        raise ranks.lost(error) from error
    # After a failure the connections stay until the process ends: closing them would tell the others before this
    # rank has written down what it was.
    ranks.close()


def of_words(error: RuntimeError) -> bool:
    """Whether an error is of the connection between ranks, also where it came up inside of torch."""
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "Gloo", "TCPStore"))


def checksums(tensors: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """A sum over the bits of each tensor, quick on every device: for `World.same`."""
    return {name: int(_bits(value).sum(dtype=torch.int64)) for name, value in tensors.items()}


def _bits(value: torch.Tensor) -> torch.Tensor:
    words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return value.detach().contiguous().view(words[value.element_size()])


def agreed(world: World, ask: Callable[[], bool]) -> Callable[[], bool]:
    """`ask` of every rank: all learn the same. All must ask as often."""
    return lambda: world.any(ask())
