"""Which sample comes when: training order that can be resumed, and evaluation that never repeats a sample.

All are subclasses of `DistributedSampler`, so that Lightning leaves them in place on several devices.
"""

from collections.abc import Iterator, Sequence, Sized
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

Indices = NDArray[np.int64]


def _world() -> tuple[int, int]:
    """(number of processes, rank) of the running job; (1, 0) outside one."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size(), dist.get_rank()
    return 1, 0


class TrainSampler(DistributedSampler[Any]):
    """Shuffled (index, draw) pairs; a pure function of (seed, epoch), the same for every number of workers.

    `draw` is the epoch: a dataset seeds the augmentation of a sample by (seed, draw, index). The last incomplete round
    over the ranks is dropped, so that all ranks make equally many steps.
    """

    def __init__(self, dataset: Sized, seed: int = 0, num_replicas: int | None = None, rank: int | None = None):
        world = _world()
        super().__init__(
            dataset,  # type: ignore[arg-type]  # only its length is used
            num_replicas=world[0] if num_replicas is None else num_replicas,
            rank=world[1] if rank is None else rank,
            shuffle=True,
            seed=seed,
            drop_last=True,
        )
        self.length = len(dataset)
        self.start = 0  # samples of this rank already used in the current epoch

    def __iter__(self) -> Iterator[Any]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.length, generator=generator)
        rounds = self.length // self.num_replicas
        mine = order[: rounds * self.num_replicas][self.rank :: self.num_replicas][self.start :]
        return ((int(index), self.epoch) for index in mine)

    def __len__(self) -> int:
        # Of the whole epoch, also when it is resumed: the trainer counts the batches before the stop, too.
        return self.length // self.num_replicas

    def set_epoch(self, epoch: int) -> None:
        """Shuffle anew; another epoch than the present one starts from its first sample."""
        if epoch != self.epoch:
            self.start = 0
        super().set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        """Where in which epoch this sampler is."""
        return {"epoch": self.epoch, "start": self.start}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where another sampler of the same seed stopped."""
        self.epoch, self.start = state["epoch"], state["start"]


class MixedSampler(TrainSampler):
    """Keys (source, index, draw) whose every consecutive sum(counts) hold counts[k] samples of source k, in that order.

    Each source is an endless stream of shuffled cycles over its samples, and a batch takes the next ones of every
    stream: no sample of a source comes again before all others of this rank's share have come. `draw` is the cycle. A
    batch is a pure function of (seeds, epoch, place in the epoch, rank); all ranks have the same counts.

    Args:
        sources: Indices of each source's samples.
        counts: Samples of each source in a batch of one process; 0 leaves a source out.
        seeds: Of each source's shuffles; below 2^64.
        batches: Batches of an epoch on one process; None for as many as the first source fills.
        num_replicas: Number of processes; that of the running job when None.
        rank: Number of this process; that of the running job when None.

    Raises:
        ValueError: A source has fewer samples than there are processes.
    """

    def __init__(
        self,
        sources: Sequence[Indices],
        counts: Sequence[int],
        seeds: Sequence[int],
        batches: int | None = None,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        world = _world()[0] if num_replicas is None else num_replicas
        for number, (indices, count) in enumerate(zip(sources, counts, strict=True)):
            if count and len(indices) < world:
                raise ValueError(f"source {number} has {len(indices)} samples for {world} processes")
        self.batches = len(sources[0]) // world // counts[0] if batches is None else batches
        super().__init__(range(self.batches * sum(counts) * world), 0, num_replicas, rank)
        self.sources, self.counts, self.seeds = list(sources), list(counts), list(seeds)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        first = self.epoch * self.batches + self.start // sum(self.counts)
        streams = [self._stream(source, first * count) for source, count in enumerate(self.counts)]
        for _ in range(first, (self.epoch + 1) * self.batches):
            for stream, count in zip(streams, self.counts, strict=True):
                for _ in range(count):
                    yield next(stream)

    def _stream(self, source: int, position: int) -> Iterator[tuple[int, int, int]]:
        """This rank's endless stream of a source, from a position on."""
        share = len(self.sources[source]) // self.num_replicas
        cycle, at = divmod(position, share) if share else (0, 0)
        while True:
            for index in self._cycle(source, cycle)[at:]:
                yield source, int(index), cycle
            cycle, at = cycle + 1, 0

    def _cycle(self, source: int, cycle: int) -> Indices:
        """This rank's samples of one cycle; the last incomplete round over the ranks is dropped."""
        indices: Indices = self.sources[source]
        words = np.random.SeedSequence((self.seeds[source], cycle)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(words[0] >> np.uint64(1)))
        order = torch.randperm(len(indices), generator=generator).numpy()
        whole = len(indices) // self.num_replicas * self.num_replicas
        mine: Indices = indices[order[:whole][self.rank :: self.num_replicas]]
        return mine


class EvalSampler(DistributedSampler[Any]):
    """Every sample exactly once over all ranks, in order.

    The usual sampler pads with repeats, which biases metrics. Here ranks may differ by one sample, so no collective may
    run inside a step. With fewer samples than ranks, it pads (an empty rank would hang); metrics then drop duplicates.
    """

    def __init__(self, dataset: Sized, num_replicas: int | None = None, rank: int | None = None):
        world = _world()
        super().__init__(
            dataset,  # type: ignore[arg-type]  # only its length is used
            num_replicas=world[0] if num_replicas is None else num_replicas,
            rank=world[1] if rank is None else rank,
            shuffle=False,
        )
        self.length = len(dataset)

    @property
    def is_padding(self) -> bool:
        """Whether this rank only repeats another's sample, because there are fewer samples than ranks."""
        return self.rank >= self.length

    def __iter__(self) -> Iterator[int]:
        if self.length < self.num_replicas:
            return iter([self.rank % max(self.length, 1)] if self.length else [])
        return iter(range(self.rank, self.length, self.num_replicas))

    def __len__(self) -> int:
        if self.length < self.num_replicas:
            return min(self.length, 1)
        return (self.length - self.rank + self.num_replicas - 1) // self.num_replicas
