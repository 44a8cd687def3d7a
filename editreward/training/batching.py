"""Which groups go through the model together: batches of so many groups or tokens, equally many on every rank."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import datasets
import numpy as np
import torch
from datasets.distributed import split_dataset_by_node

from editreward.groups.rows import GroupRow
from editreward.training.subsets import Pair

Unit: TypeAlias = tuple[int, Pair | None]
"""A row of a dataset, whole or one pair of it."""

BUCKET_RATIO = 1.1
"""Groups of one bucket differ by at most so much in tokens, which bounds the padding within a batch."""


class Request(NamedTuple):
    """What a worker is asked to read. It tells all that matters, so that workers may outlive an epoch.

    Args:
        row: Index of the row in the dataset.
        epoch: How often the row was read before, in a mixture not once an epoch. Decides which candidates of a large
            group are taken.
        pair: The two candidates to take instead.
    """

    row: int
    epoch: int = 0
    pair: Pair | None = None


class EpochOrder:
    """The order of items in each epoch, a function of seed and epoch alone.

    Args:
        parts: The items of each dataset of a mixture, arrays of integers.
        weights: Shares of the datasets in an epoch, in any unit. An epoch is as long as it can be without an item
            coming twice; the next one goes on with the items whose turn it is. `None`: every item in every epoch.
        shuffle: Shuffle; otherwise items come in ascending order.
        seed: Of the shuffling.

    Raises:
        ValueError: If a weight is not positive.
    """

    def __init__(
        self,
        parts: Sequence[np.ndarray],
        weights: Sequence[float] | None = None,
        shuffle: bool = True,
        seed: int = 0,
    ) -> None:
        self.parts, self.shuffle, self.seed = list(parts), shuffle, seed
        self.quotas = [len(part) for part in parts]
        if weights is not None:
            if not all(weight > 0 and math.isfinite(weight) for weight in weights):
                raise ValueError(f"The weights of a mixture must be positive, got {list(weights)}.")
            total = min(len(part) / weight for part, weight in zip(parts, weights, strict=True))
            self.quotas = [round(total * weight) for weight in weights]
        if shuffle:
            self.parts = [self._generator(1, number).permutation(part) for number, part in enumerate(parts)]

    def __len__(self) -> int:
        return sum(self.quotas)

    @property
    def varies(self) -> bool:
        """Whether epochs have different items."""
        return self.quotas != [len(part) for part in self.parts]

    def __call__(self, epoch: int) -> np.ndarray:
        """The items of an epoch, in order."""
        chosen = [
            part[(epoch * quota + np.arange(quota)) % len(part)]
            for part, quota in zip(self.parts, self.quotas, strict=True)
            if quota
        ]
        items = np.concatenate(chosen) if chosen else np.empty(0, dtype=np.int64)
        return self._generator(0, epoch).permutation(items) if self.shuffle else np.sort(items)

    def times_before(self, epoch: int) -> np.ndarray:
        """How often each item of an epoch came in those before, by the number of the item."""
        times = np.zeros(1 + max((part.max() for part in self.parts if len(part)), default=-1), dtype=np.int64)
        for part, quota in zip(self.parts, self.quotas, strict=True):
            turns = epoch * quota
            times[part] = (turns + (np.arange(len(part)) - turns) % max(1, len(part))) // max(1, len(part))
        return times

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *key])


class GroupBatchSampler(torch.utils.data.Sampler[list[Request]]):
    """The batches of one rank, for `DataLoader(batch_sampler=...)`.

    Every rank gets equally many batches, no item comes twice in an epoch, and the number of batches is the same in
    every epoch. Where items do not suffice, batches are smaller, at the end of an epoch even empty.

    Args:
        order: Gives the items of an epoch.
        batch_size: Items of a batch.
        costs: Instead of `batch_size`, the tokens of each item, at most.
        budget: Tokens of a batch, its padding included: items x those of the longest. An item that exceeds it is a
            batch of its own.
        rank, world_size: Which part of all batches to give. Ranks take turns, so that they work on batches of about
            one size at the same time.
        drop_last: Leave out what does not fill a batch on every rank.
        epochs: How many epochs there will be, for a mixture whose epochs need different numbers of batches.
        units: What to ask workers for, by item: row and pair. Default: the row of the item's number.
    """

    def __init__(
        self,
        order: EpochOrder,
        batch_size: int = 1,
        costs: np.ndarray | None = None,
        budget: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        epochs: int = 1,
        units: Sequence[Unit] | None = None,
    ) -> None:
        self.order, self._batch_size, self.budget = order, batch_size, budget
        self.rank, self.world_size, self.drop_last, self.units = rank, world_size, drop_last, units
        self.epoch = 0
        self._costs = self._bucket = self._bound = np.empty(0, dtype=np.int64)
        if budget is not None:
            assert costs is not None
            costs = self._costs = np.maximum(costs, 1)
            # Buckets in descending order, and the tokens of the longest item of each.
            bucket = -np.ceil(np.log(costs) / math.log(BUCKET_RATIO)).astype(np.int64)
            levels, self._bucket = np.unique(bucket, return_inverse=True)
            self._bound = np.zeros(len(levels), dtype=np.int64)
            np.maximum.at(self._bound, self._bucket, costs)
        if budget is None:
            rounds = len(order) / (world_size * batch_size)
            self._rounds = math.floor(rounds) if drop_last else math.ceil(rounds)
        else:
            counts = [len(self._cut(order(epoch))) for epoch in range(epochs if order.varies else 1)]
            self._rounds = min(counts) // world_size if drop_last else math.ceil(max(counts) / world_size)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._rounds

    def __iter__(self) -> Iterator[list[Request]]:
        epoch, items = self.epoch, self.order(self.epoch)
        times = self.order.times_before(epoch)
        batches = self._of_size(items) if self.budget is None else self._of_tokens(items, epoch)
        for batch in batches:
            if self.units is None:
                yield [Request(int(item), int(times[item])) for item in batch]
            else:
                yield [Request(self.units[item][0], int(times[item]), self.units[item][1]) for item in batch]

    def _of_size(self, items: np.ndarray) -> Iterator[np.ndarray]:
        size = self._batch_size * self.world_size
        for number in range(self._rounds):
            of_all = items[number * size : (number + 1) * size]
            if len(of_all) == size:
                yield of_all[self.rank * self._batch_size : (self.rank + 1) * self._batch_size]
            else:
                yield np.array_split(of_all, self.world_size)[self.rank]

    def _of_tokens(self, items: np.ndarray, epoch: int) -> Iterator[np.ndarray]:
        if self.order.shuffle:
            items = items[np.argsort(self._bucket[items], kind="stable")]
        sizes = self._cut(items)
        wanted = self._rounds * self.world_size
        if len(sizes) > wanted and not self.drop_last:
            raise ValueError(f"Epoch {epoch} needs more batches than were planned. Say how many epochs there will be.")
        while len(sizes) < wanted:
            largest = int(np.argmax(sizes))
            size = sizes[largest]
            sizes[largest : largest + 1] = [size - size // 2, size // 2]
        ends = np.cumsum(sizes[:wanted])
        starts = ends - sizes[:wanted]
        rounds = np.arange(self._rounds)
        if self.order.shuffle:
            rounds = np.random.default_rng([self.order.seed, 2, epoch]).permutation(rounds)
        for number in rounds * self.world_size + self.rank:
            yield items[starts[number] : ends[number]]

    def _cut(self, items: np.ndarray) -> list[int]:
        """Sizes of the batches that items make within the budget: of shuffled items, the longest first."""
        assert self.budget is not None
        sizes: list[int] = []
        start = 0
        if self.order.shuffle:
            bounds = self._bound[np.sort(self._bucket[items])]
            while start < len(bounds):
                sizes.append(min(max(1, self.budget // int(bounds[start])), len(bounds) - start))
                start += sizes[-1]
            return sizes
        longest = 0
        for cost in self._costs[items].tolist():
            longest = max(longest, cost)
            if sizes and (sizes[-1] + 1) * longest <= self.budget:
                sizes[-1] += 1
            else:
                sizes.append(1)
                longest = cost
        return sizes


class StreamedBatches(torch.utils.data.IterableDataset):
    """Batches of a streamed dataset, each a list of rows, for `DataLoader(batch_size=None)`.

    In training the stream never ends: each worker of each rank reads its own part of the dataset again and again, so
    that ranks can't run out of batches at different times. In evaluation it is read once, by every rank, and ranks
    take turns at the batches; the last ones may be empty.

    Args:
        dataset: The rows, images not decoded.
        parts_of: What an epoch takes of a row: of a row and an epoch, a list of rows.
        cost: Tokens of a row.
        batch_size: Rows of a batch.
        budget: Instead, tokens of a batch with its padding.
        training: Go on for ever, shuffled.
        shuffle_buffer: Rows that are shuffled at a time; 0 keeps the order of the stream.
        packing_buffer: Rows among which those of about one length are looked for, under `budget`.
        rank, world_size, seed: Which part, and what order.

    Raises:
        ValueError: If there is no row for a rank, or in training a row exceeds the budget alone.
    """

    def __init__(
        self,
        dataset: datasets.IterableDataset,
        parts_of: Callable[[GroupRow, int], Sequence[GroupRow]],
        cost: Callable[[GroupRow], int],
        batch_size: int = 1,
        budget: int | None = None,
        training: bool = True,
        shuffle_buffer: int = 0,
        packing_buffer: int = 64,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ) -> None:
        self.dataset = split_dataset_by_node(dataset, rank, world_size) if training else dataset
        self.parts_of, self.cost, self.batch_size, self.budget = parts_of, cost, batch_size, budget
        self.training, self.shuffle_buffer, self.packing_buffer = training, shuffle_buffer, packing_buffer
        self.rank, self.world_size, self.seed = rank, world_size, seed

    def __iter__(self) -> Iterator[list[GroupRow]]:
        if self.training:
            yield from self._batches(self._endless())
            return
        number = -1
        for number, batch in enumerate(self._batches(self._pass(0))):
            if number % self.world_size == self.rank:
                yield batch
        if number >= 0 and self.rank > number % self.world_size:  # the other ranks have one more
            yield []

    def _endless(self) -> Iterator[GroupRow]:
        for epoch in itertools.count():
            row = None
            for row in self._pass(epoch):
                yield row
            if row is None:
                worker = torch.utils.data.get_worker_info()
                if worker is None or worker.id == 0:
                    raise ValueError(
                        f"The stream has no group for process {self.rank} of {self.world_size}. Use fewer processes."
                    )
                return  # there are fewer files than workers

    def _pass(self, epoch: int) -> Iterator[GroupRow]:
        dataset = self.dataset
        if self.training and self.shuffle_buffer:
            # A new seed rather than `set_epoch`, whose epoch all workers share while each goes at its own pace.
            dataset = dataset.shuffle(seed=self.seed + epoch, buffer_size=self.shuffle_buffer)
        for row in undecoded(dataset):
            yield from self.parts_of(row, epoch)

    def _batches(self, rows: Iterator[GroupRow]) -> Iterator[list[GroupRow]]:
        if self.budget is None:
            while batch := list(itertools.islice(rows, self.batch_size)):
                yield batch
            return
        buffer: list[tuple[int, GroupRow]] = []
        for row in rows:
            tokens = self.cost(row)
            if self.training and tokens > self.budget:
                raise ValueError(exceeds_budget(f"group {row.get('group_id')!r}", tokens, self.budget))
            buffer.append((tokens, row))
            if len(buffer) >= self.packing_buffer:
                yield self._take(buffer)
        while buffer:
            yield self._take(buffer)

    def _take(self, buffer: list[tuple[int, GroupRow]]) -> list[GroupRow]:
        """Take out the row that has waited longest, and those nearest to its length that fit beside it."""
        assert self.budget is not None
        first = longest = buffer[0][0]
        taken = [0]
        for index in sorted(range(1, len(buffer)), key=lambda index: abs(buffer[index][0] - first)):
            if (len(taken) + 1) * max(longest, buffer[index][0]) <= self.budget:
                taken.append(index)
                longest = max(longest, buffer[index][0])
        batch = [buffer[index][1] for index in taken]
        for index in sorted(taken, reverse=True):
            del buffer[index]
        return batch


def undecoded(dataset: datasets.IterableDataset) -> datasets.IterableDataset:
    """The stream with images as `{"bytes", "path"}`, which a worker decodes knowing whose they are."""
    return dataset.decode(False) if dataset.features is not None else dataset


def exceeds_budget(name: str, tokens: int, budget: int) -> str:
    """What to say of a group that is too long for any batch."""
    return (
        f"{name} has {tokens:,} tokens, more than `--max_tokens_per_batch` {budget:,}. Raise it, limit the candidates "
        "of a group (`--max_candidates`) or, for a new model, the size of its images (`--pixels`)."
    )
