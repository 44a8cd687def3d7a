"""From datasets of edit groups to the batches of each process: what stands behind the trainer's data loaders."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from random import Random
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from transformers.trainer_utils import seed_worker
from transformers.utils import logging

from editreward.data.instructions import varied_instruction
from editreward.groups.rows import GroupRow
from editreward.training.arguments import EditRewardTrainingArguments
from editreward.training.bad_rows import UnreadableRow
from editreward.training.batching import (
    EpochOrder,
    GroupBatchSampler,
    Request,
    StreamedBatches,
    Unit,
    exceeds_budget,
    undecoded,
)
from editreward.training.row_sizes import ScannedRow, TokenCounter, scan_dataset
from editreward.training.subsets import row_of_epoch, split_into_pairs, take_candidates
from processing_editreward import EditRewardProcessor

logger = logging.get_logger(__name__)

# Columns of a mixture, `editreward.training.datasets.mix`.
MIXTURE_PART = "mixture_part"
MIXTURE_ROW = "mixture_row"
MIXTURE_WEIGHT = "mixture_weight"


class GroupRows(torch.utils.data.Dataset):
    """The rows of a dataset by [`Request`], images not decoded unless the dataset has a transform.

    Args:
        dataset: Edit groups.
        max_candidates: Candidates that a row is cut down to, others in every epoch; `None` for all.
        seed: Of that choice.
        vary_instructions: See `EditRewardTrainingArguments`.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        max_candidates: int | None = None,
        seed: int = 0,
        vary_instructions: float = 0.0,
    ) -> None:
        self._has_transform = dataset.format["type"] == "custom"
        self.dataset = dataset if self._has_transform else dataset.with_format("arrow")
        self.max_candidates, self.seed, self.vary_instructions = max_candidates, seed, vary_instructions

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, request: Request) -> GroupRow:
        row = self._read(request.row)
        if isinstance(row, UnreadableRow):
            return row
        row = with_varied_instruction(row, self.vary_instructions, self.seed, request.epoch)
        if request.pair is not None:
            return take_candidates(row, request.pair)
        return row_of_epoch(row, self.max_candidates, self.seed, request.epoch)

    def _read(self, index: int) -> GroupRow:
        if not self._has_transform:
            [row] = self.dataset[index : index + 1].to_pylist()
            return row
        try:
            return self.dataset[index]
        except Exception as error:  # decoders of images raise whatever goes wrong in them
            reason = f"Row {index} cannot be read: {type(error).__name__}: {error}"
            return UnreadableRow(group_id=f"row {index}", reason=reason)


def group_dataloader(
    dataset: datasets.Dataset | datasets.IterableDataset,
    collator: Callable[[list[GroupRow]], object],
    processor: EditRewardProcessor,
    args: EditRewardTrainingArguments,
    accelerator: Accelerator,
    batch_size: int,
    training: bool,
) -> torch.utils.data.DataLoader:
    """The data loader of this process. Batches are `batch_size` padded groups, as many on every process.

    In training, `args.max_candidates` and `args.split_into_pairs` say what becomes of a group; evaluation is on whole
    groups, each once, in the dataset's order.
    """
    options = _loader_options(collator, args, accelerator.process_index, training)
    seed = args.seed if args.data_seed is None else args.data_seed
    place = {"rank": accelerator.process_index, "world_size": accelerator.num_processes}
    if isinstance(dataset, datasets.IterableDataset):
        batches = StreamedBatches(
            dataset,
            partial(
                _parts,
                max_candidates=args.max_candidates,
                pairs=args.split_into_pairs,
                seed=seed,
                vary_instructions=args.vary_instructions,
            )
            if training
            else _whole,
            TokenCounter(processor, args.rationale_weight > 0).of_row,
            batch_size,
            args.max_tokens_per_batch,
            training,
            args.shuffle_buffer_size,
            seed=seed,
            **place,
        )
        loader = torch.utils.data.DataLoader(batches, batch_size=None, **options)
    else:
        rows = GroupRows(
            dataset, args.max_candidates if training else None, seed, args.vary_instructions if training else 0.0
        )
        with accelerator.main_process_first():
            sampler = _sampler(dataset, processor, args, batch_size, seed, training, **place)
        loader = torch.utils.data.DataLoader(rows, batch_sampler=sampler, **options)
    # The sampler knows the processes: accelerate must not share out its batches again.
    prepared = prepare_data_loader(
        loader,
        accelerator.device,
        num_processes=1,
        process_index=0,
        put_on_device=accelerator.device_placement,
        rng_types=accelerator.rng_types.copy(),
        dispatch_batches=False,
        # Copies of pinned memory to a GPU keep their place in its queue: nothing is gained by waiting for them.
        non_blocking=accelerator.non_blocking or (args.dataloader_pin_memory and accelerator.device.type == "cuda"),
    )
    accelerator._dataloaders.append(prepared)
    return prepared


def _loader_options(
    collator: Callable[[list[GroupRow]], object], args: EditRewardTrainingArguments, rank: int, training: bool
) -> dict[str, Any]:
    """Arguments of the `DataLoader` that do not depend on the dataset."""
    workers = args.dataloader_num_workers
    options: dict[str, Any] = {
        "collate_fn": collator,
        "num_workers": workers,
        "pin_memory": args.dataloader_pin_memory,
        "persistent_workers": args.dataloader_persistent_workers and workers > 0,
        "multiprocessing_context": args.dataloader_multiprocessing_context if workers else None,
        "prefetch_factor": args.dataloader_prefetch_factor if workers else None,
        "in_order": args.dataloader_in_order,
    }
    if workers:
        # Each worker is one thread: of torch by its own default, of the tokenizer by this.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if training:
        options["worker_init_fn"] = partial(seed_worker, num_workers=workers, rank=rank)
    return options


def _parts(
    row: GroupRow, epoch: int, max_candidates: int | None, pairs: bool, seed: int, vary_instructions: float
) -> list[GroupRow]:
    row = with_varied_instruction(row, vary_instructions, seed, epoch)
    return split_into_pairs(row) if pairs else [row_of_epoch(row, max_candidates, seed, epoch)]


def with_varied_instruction(row: GroupRow, share: float, seed: int, epoch: int) -> GroupRow:
    """The row with its instruction written otherwise, for this share of the rows: the same ones whenever it is asked.

    Args:
        row: of the dataset schema, usable or not.
        share: 0 to 1.
        seed, epoch: decide, with the row's own id and instruction, whether and how.
    """
    instruction = row.get("instruction")
    if share <= 0 or not isinstance(instruction, str):
        return row
    rng = Random(f"{seed} {epoch} {row.get('group_id')} {instruction}")
    return {**row, "instruction": varied_instruction(instruction, rng)} if rng.random() < share else row


def _whole(row: GroupRow, epoch: int) -> list[GroupRow]:
    return [row]


def _sampler(
    dataset: datasets.Dataset,
    processor: EditRewardProcessor,
    args: EditRewardTrainingArguments,
    batch_size: int,
    seed: int,
    training: bool,
    rank: int,
    world_size: int,
) -> GroupBatchSampler:
    budget, into_pairs = args.max_tokens_per_batch, training and args.split_into_pairs
    units: list[Unit] | None = None
    costs: np.ndarray | None = None
    row_of_item = np.arange(len(dataset))
    if budget is not None or into_pairs:
        scanned = scan_rows(dataset, args.dataset_num_proc)
        if into_pairs:
            units = _pair_units(scanned)
            row_of_item = np.array([row for row, _ in units], dtype=np.int64)
        if budget is not None:
            counter = TokenCounter(processor, args.rationale_weight > 0)
            costs = _costs(scanned, units, counter, args.max_candidates if training else None)
            if training and len(costs) and costs.max() > budget:
                longest = int(costs.argmax())
                name = f"Group {scanned[int(row_of_item[longest])]['group_id']!r}"
                message = exceeds_budget(name, int(costs[longest]), budget)
                raise ValueError(f"{message} It is the longest of {int((costs > budget).sum()):,} that are too long.")
    parts, weights = _mixture(dataset, row_of_item) if training else ([np.arange(len(row_of_item))], None)
    shuffle = training and args.train_sampling_strategy != "sequential"
    order = EpochOrder(parts, weights, shuffle, seed)
    epochs = max(1, int(np.ceil(args.num_train_epochs)))
    if training and order.varies and args.max_steps > 0 and budget is not None:
        first = GroupBatchSampler(order, costs=costs, budget=budget, world_size=world_size)
        epochs = args.max_steps * args.gradient_accumulation_steps // max(1, len(first)) + 1
    return GroupBatchSampler(
        order,
        batch_size,
        costs,
        budget,
        rank,
        world_size,
        drop_last=training and args.dataloader_drop_last,
        epochs=epochs,
        units=units,
    )


def _pair_units(scanned: Sequence[ScannedRow]) -> list[Unit]:
    """Every pair with its row. A faulty row is asked for as a whole, for the collator to report."""
    units: list[Unit] = []
    for row, entry in enumerate(scanned):
        pairs = [(i, j) for i, j in entry["pairs"]]
        units += [(row, pair) for pair in pairs] if entry["fault"] is None else [(row, None)]
    return units


def _costs(
    scanned: Sequence[ScannedRow], units: Sequence[Unit] | None, counter: TokenCounter, limit: int | None
) -> np.ndarray:
    """Tokens of each unit, or of each row with its `limit` longest candidates."""
    tokens = list(map(counter, scanned))
    if units is None:
        return np.array([of_row.most(limit) for of_row in tokens], dtype=np.int64)
    return np.array([tokens[row].of_pair(pair) if pair else 0 for row, pair in units], dtype=np.int64)


def _mixture(dataset: datasets.Dataset, row_of_item: np.ndarray) -> tuple[list[np.ndarray], list[float] | None]:
    """The items of each dataset of a mixture and its weight; all items, without weights, where it has none."""
    if MIXTURE_WEIGHT not in dataset.column_names:
        return [np.arange(len(row_of_item))], None
    table = dataset.with_format("numpy", columns=[MIXTURE_PART, MIXTURE_WEIGHT])
    part_of_row, weight_of_row = table[:][MIXTURE_PART], table[:][MIXTURE_WEIGHT]
    parts = [np.flatnonzero(part_of_row[row_of_item] == part) for part in np.unique(part_of_row)]
    return parts, [float(weight_of_row[row_of_item[part[0]]]) for part in parts]


def scan_rows(dataset: datasets.Dataset, num_proc: int | None = None) -> list[ScannedRow]:
    """What [`scan_dataset`] finds, by row; of a mixture, of its datasets."""
    if MIXTURE_PART not in dataset.column_names:
        return list(scan_dataset(dataset, num_proc))
    parts = dataset.format["format_kwargs"]["transform"].parts
    scanned = [list(scan_dataset(part, num_proc)) for part in parts]
    table = dataset.with_format(None)
    return [scanned[part][row] for part, row in zip(table[MIXTURE_PART], table[MIXTURE_ROW], strict=True)]


class DataWait:
    """Measures the share of its time that a process waits for the next batch."""

    def __init__(self) -> None:
        self.waited = 0.0
        self.since = time.perf_counter()

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Around what waits for data."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.waited += time.perf_counter() - start

    def pop(self, accelerator: Accelerator) -> float:
        """The share since the last call, from 0 to 1, of the process that waited most: the others wait for it."""
        now = time.perf_counter()
        share = self.waited / max(now - self.since, 1e-9)
        self.waited, self.since = 0.0, now
        return float(accelerator.gather(torch.tensor([share], device=accelerator.device)).max())


def first_row(dataset: datasets.Dataset | datasets.IterableDataset, on_bad_row: str) -> GroupRow | None:
    """The first row that can be read, images not decoded; `None` if there is none.

    Raises:
        ValueError: If the first row cannot be read, unless bad rows are skipped.
    """
    rows: Iterator[GroupRow]
    if isinstance(dataset, datasets.IterableDataset):
        rows = iter(undecoded(dataset))
    else:
        groups = GroupRows(dataset)
        rows = (groups[Request(index)] for index in range(len(groups)))
    for row in rows:
        if not isinstance(row, UnreadableRow):
            return row
        if on_bad_row == "stop":
            raise ValueError(row["reason"])
    return None
