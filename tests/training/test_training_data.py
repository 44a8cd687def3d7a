"""What training reads: parts of groups by epoch, batches by tokens, mixtures, streams, bad rows, and time waited."""

import io
import itertools
import json
import math
import os
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import skip_first_batches
from datasets import Dataset, IterableDataset
from safetensors.torch import load_file

from editreward.data.export import export_pairs
from editreward.data.sources import SimulatedGroups, load_groups
from editreward.data.storage import write_groups
from editreward.simulation import simulate_group
from editreward.training import EditGroupCollator, EditRewardTrainingArguments
from editreward.training.bad_rows import BadRows
from editreward.training.batching import EpochOrder, GroupBatchSampler, StreamedBatches
from editreward.training.dataloading import DataWait, GroupRows
from editreward.training.datasets import (
    GroupDataArguments,
    load_eval_dataset,
    load_train_dataset,
)
from editreward.training.row_sizes import TokenCounter, scan_dataset
from editreward.training.subsets import (
    candidates_of_epoch,
    covering_subsets,
    epochs_to_cover,
    row_of_epoch,
    split_into_pairs,
)
from tests.helpers.backbones import build, build_processor, make_image
from tests.helpers.processes import as_script, errors_of, run_ranks
from tests.helpers.trainers import ROOT, SCORES, SCRIPT, broken, make_row, make_rows, make_trainer, step_of

ID, SCORE = "group_id", "instruction_following"


# Parts of groups


def pairs_in(subsets):
    return {pair for subset in subsets for pair in itertools.combinations(subset, 2)}


@pytest.mark.parametrize("limit", [2, 3, 4, 7])
def test_every_pair_of_a_large_group_is_seen_within_the_stated_number_of_epochs(limit):
    for size in range(1, 13):
        everything = set(itertools.combinations(range(size), 2))
        rounds = epochs_to_cover(size, limit)
        # No design has fewer subsets (Schoenheim's bound); the greedy one stays within twice of it here.
        bound = math.ceil(size / limit * math.ceil((size - 1) / (limit - 1))) if size > limit else 1
        assert bound <= rounds <= 2 * bound
        for group_id, start in itertools.product(["a", "b"], [0, 3]):
            epochs = range(start * rounds, (start + 1) * rounds)
            seen = [candidates_of_epoch(size, limit, group_id, 5, epoch) for epoch in epochs]
            assert pairs_in(seen) == everything and {len(subset) for subset in seen} == {min(size, limit)}
            assert seen == [candidates_of_epoch(size, limit, group_id, 5, epoch) for epoch in epochs]
    different = {candidates_of_epoch(12, limit, f"group {i}", 5, 0) for i in range(9)}
    assert len(different) > 1


def test_annotated_pairs_alone_are_covered_and_each_part_has_one():
    pairs = [(0, 9), (9, 4), (2, 3)]
    ordered = frozenset((min(pair), max(pair)) for pair in pairs)
    subsets = covering_subsets(10, 3, ordered)
    assert ordered <= pairs_in(subsets) and len(subsets) == 2
    preferences = [{"chosen": i, "rejected": j, "weight": 1.0 + i} for i, j in pairs]
    row = {ID: "g", "candidates": [f"image {i}" for i in range(10)], "preferences": preferences}
    found = []
    for epoch in range(len(subsets)):
        part = row_of_epoch(row, 3, 0, epoch)
        assert len(part["candidates"]) == 3 and part["preferences"]
        for entry in part["preferences"]:
            found.append((part["candidates"][entry["chosen"]], part["candidates"][entry["rejected"]], entry["weight"]))
    assert set(found) == {(f"image {i}", f"image {j}", 1.0 + i) for i, j in pairs}
    impossible = row | {"preferences": [{"chosen": 0, "rejected": 10, "weight": 1.0}]}
    assert row_of_epoch(impossible, 3, 0, 0) is impossible and split_into_pairs(impossible) == [impossible]
    assert [part["preferences"][0]["chosen"] for part in split_into_pairs(row)] == [0, 1, 0]


@pytest.mark.parametrize("ties", ["drop", "disentangle", "dimension"])
def test_losses_of_a_groups_pairs_add_up_to_those_of_the_group(tmp_path, ties):
    built = build(head_dropout=0.0)
    built[0].double()
    rows = [make_row(0, SCORES[0]), make_row(3, SCORES[3])]
    trainer = make_trainer(tmp_path, rows, built, dimension_weight=0.7, ties=ties)

    def total(rows):
        inputs = trainer._prepare_inputs(trainer.data_collator(rows))
        ones = torch.ones_like(trainer.get_batch_samples(iter([inputs]), 1, torch.device("cpu"))[1])
        return trainer.compute_loss(trainer.model.eval(), inputs, num_items_in_batch=ones).item()

    pairs = [pair for row in rows for pair in split_into_pairs(row)]
    assert len(pairs) == 9 and {len(pair["candidates"]) for pair in pairs} == {2}
    assert total(pairs) == pytest.approx(total(rows), rel=1e-9)


# Tokens


@pytest.mark.parametrize(("kind", "layout"), [("qwen2_5_vl", "paper"), ("qwen3_vl", "compact"), ("mimo", "compact")])
def test_tokens_counted_from_headers_are_those_that_are_packed(tmp_path, kind, layout):
    processor = build_processor(kind, layout=layout, pixels=9000)
    sizes = [(300, 40), (64, 64), (33, 500)]
    row = make_row(1, SCORES[0][:3])
    row["source_images"] = [make_image(1, (90, 20)), make_image(2, (20, 90))]
    for candidate, size in zip(row["candidates"], sizes, strict=True):
        candidate["image"] = make_image(3, size)
    packed = processor.pack(row["source_images"], [c["image"] for c in row["candidates"]], row["instruction"])
    assert TokenCounter(processor).of_row(row) == packed.num_tokens
    group = simulate_group(0, size=84).to_row()
    group["candidates"] = [
        candidate | {"image": make_image(i, size)}
        for i, (candidate, size) in enumerate(zip(group["candidates"], sizes, strict=False))
    ]
    write_groups([group], tmp_path)
    [scanned] = list(scan_dataset(load_groups(tmp_path)))
    assert [tuple(size) for size in scanned["candidate_sizes"]] == [size[::-1] for size in sizes]
    assert scanned["fault"] is None and len(scanned["pairs"]) == 3 and scanned[ID] == group[ID]


# Batches


def batches_of(epoch, world_size, order, **options):
    """The batches of every rank in an epoch, as rows."""
    found = []
    for rank in range(world_size):
        sampler = GroupBatchSampler(order, rank=rank, world_size=world_size, **options)
        sampler.set_epoch(epoch)
        found.append([[request.row for request in batch] for batch in sampler])
        assert len(found[-1]) == len(sampler)
        assert {request.epoch for batch in sampler for request in batch} <= {epoch}
    return found


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 5, 23])
def test_ranks_share_every_row_once_in_equally_many_batches(rows, world_size):
    order = EpochOrder([np.arange(rows)], seed=1)
    alone = batches_of(2, 1, order, batch_size=2 * world_size)[0]
    together = batches_of(2, world_size, order, batch_size=2)
    assert {len(batches) for batches in together} == {len(alone)}
    for step, batch in enumerate(alone):
        assert [row for batches in together for row in batches[step]] == batch  # the step of one process
    assert sorted(itertools.chain(*alone)) == list(range(rows))
    assert batches_of(2, 1, order, batch_size=2) != batches_of(3, 1, order, batch_size=2) or rows == 1
    kept = batches_of(0, world_size, order, batch_size=2, drop_last=True)
    assert all(len(batch) == 2 for batches in kept for batch in batches)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_batches_keep_to_the_budget_with_every_row_once_and_little_padding(world_size, shuffle):
    costs = np.random.default_rng(0).integers(100, 900, 200)
    order = EpochOrder([np.arange(200)], shuffle=shuffle, seed=1)
    options = {"costs": costs, "budget": 4000}
    numbers = set()
    for epoch in range(3):
        together = batches_of(epoch, world_size, order, **options)
        assert together == batches_of(epoch, world_size, order, **options)
        numbers |= {len(batches) for batches in together}
        flat = [batch for batches in together for batch in batches]
        assert sorted(itertools.chain(*flat)) == list(range(200))
        padded = [len(batch) * costs[batch].max() for batch in flat]
        assert max(padded) <= 4000
        if shuffle:
            assert sum(padded) < 1.1 * costs.sum()
        else:  # the dataset's order
            assert list(itertools.chain(*itertools.chain(*zip(*together, strict=True)))) == list(range(200))
    assert len(numbers) == 1
    if shuffle:
        assert {tuple(b) for b in batches_of(0, 1, order, **options)[0]} != {
            tuple(b) for b in batches_of(1, 1, order, **options)[0]
        }


def test_ranks_without_a_row_left_get_empty_batches_rather_than_a_repeated_row():
    order = EpochOrder([np.arange(2)])
    assert sorted(map(len, (b[0] for b in batches_of(0, 3, order, costs=np.array([5, 5]), budget=9)))) == [0, 1, 1]
    assert sorted(map(len, (b[0] for b in batches_of(0, 3, order, batch_size=4)))) == [0, 1, 1]


def test_a_mixture_has_its_shares_in_every_epoch_and_every_row_in_turn():
    parts = [np.arange(10), np.arange(10, 110)]
    order = EpochOrder(parts, weights=[1, 3], seed=4)
    seen = Counter()
    for epoch in range(10):
        items = order(epoch)
        assert len(items) == len(set(items)) == 40 and (items < 10).sum() == 10
        seen.update(items.tolist())
    assert all(seen[row] == 10 for row in range(10)) and {seen[row] for row in range(10, 110)} == {3}
    assert order(3).tolist() != EpochOrder(parts, weights=[1, 3], seed=5)(3).tolist()
    costs = np.random.default_rng(0).integers(100, 900, 110)
    samplers = [GroupBatchSampler(order, costs=costs, budget=2000, epochs=6) for _ in range(6)]
    for epoch, sampler in enumerate(samplers):
        sampler.set_epoch(epoch)
        assert len(list(sampler)) == len(samplers[0]) and sum(map(len, sampler)) == 40
    with pytest.raises(ValueError, match="must be positive"):
        EpochOrder(parts, weights=[1, 0])


@pytest.mark.parametrize("pairs", [(), ((0, 1), (0, 2), (0, 3), (1, 2))])
def test_no_pair_is_lost_of_groups_that_a_mixture_shows_every_second_epoch(pairs):
    limit, size = (2, 4) if pairs else (4, 8)
    round_of_group = len(covering_subsets(size, limit, frozenset(pairs) or None))
    assert round_of_group % 2 == 0  # so that the number of the epoch would show the same parts again and again
    sampler = GroupBatchSampler(EpochOrder([np.arange(5), np.arange(5, 15)], [1, 1]))
    seen, times = {}, Counter()
    for epoch in range(2 * round_of_group):
        sampler.set_epoch(epoch)
        for [request] in sampler:
            assert request.epoch == times[request.row]
            times[request.row] += 1
            shown = candidates_of_epoch(size, limit, f"g{request.row}", 0, request.epoch, pairs)
            seen.setdefault(request.row, set()).update(itertools.combinations(shown, 2))
    assert {times[row] for row in range(5, 15)} == {round_of_group}
    wanted = set(pairs) or set(itertools.combinations(range(size), 2))
    assert all(wanted <= seen[row] for row in range(15))


class TellingCollator(EditGroupCollator):
    """Says what it got and where."""

    def __call__(self, rows):
        told = [(row[ID], [candidate["scores"][SCORE] for candidate in row["candidates"]]) for row in rows]
        return {**super().__call__(rows), "told": told, "process": os.getpid(), "threads": torch.get_num_threads()}


def test_workers_that_outlive_epochs_pack_by_themselves_and_know_the_epoch_and_a_resumed_run_its_place(tmp_path):
    rows = [make_row(index, [(float(i % 4), 1.0 + i) for i in range(5)]) for index in range(4)]
    for row in rows:
        for place, candidate in enumerate(row["candidates"]):
            candidate["scores"] = dict(candidate["scores"], **{SCORE: float(place)})
    trainer = make_trainer(
        tmp_path,
        rows,
        max_candidates=2,
        dataloader_num_workers=1,
        dataloader_persistent_workers=True,
        dataloader_multiprocessing_context="fork",
        seed=3,
    )
    trainer.data_collator = TellingCollator(build_processor())
    loader = trainer.get_train_dataloader()
    epochs, processes = [], set()
    for epoch in range(3):
        loader.set_epoch(epoch)
        batches = list(loader)
        epochs.append([told for batch in batches for told in batch["told"]])
        processes |= {batch["process"] for batch in batches}
        assert {batch["threads"] for batch in batches} == {1}
        for group_id, places in epochs[-1]:
            assert places == [float(i) for i in candidates_of_epoch(5, 2, group_id, 3, epoch)]
    assert len(processes) == 1 and os.getpid() not in processes
    assert len({tuple(name for name, _ in epoch) for epoch in epochs}) > 1

    resumed = skip_first_batches(make_trainer(tmp_path, rows, max_candidates=2, seed=3).get_train_dataloader(), 3)
    resumed.set_epoch(2)
    resumed.batch_sampler.batch_sampler.set_epoch(2)  # as `transformers.Trainer` does
    assert [name for batch in resumed for name in batch["group_ids"]] == [name for name, _ in epochs[2]][3:]


def test_a_group_that_exceeds_the_budget_is_named_with_what_to_change(tmp_path):
    rows = [*make_rows(), make_row(9, [(1.0, float(i)) for i in range(60)])]
    tokens = [TokenCounter(build_processor()).of_row(row) for row in rows]
    budget = tokens[-1] - 1
    assert max(tokens[:-1]) < budget < sum(tokens[:-1])
    trainer = make_trainer(tmp_path, rows, eval_rows=rows, max_tokens_per_batch=budget)
    told = f"'group-9' has {tokens[-1]} tokens, more than `--max_tokens_per_batch` {budget}.*max_candidates.* 1 that"
    with pytest.raises(ValueError, match=told):
        trainer.get_train_dataloader()
    assert sum(len(batch["group_ids"]) for batch in trainer.get_eval_dataloader()) == 5
    trainer = make_trainer(tmp_path, rows, max_tokens_per_batch=budget, max_candidates=4)
    batches = list(trainer.get_train_dataloader())
    assert max(batch["input_ids"].numel() for batch in batches) <= budget
    assert sum(len(batch["group_ids"]) for batch in batches) == 5 and len(batches) < 5


def test_a_step_of_batches_by_tokens_is_that_of_batches_by_number(tmp_path):
    rows = make_rows()
    by_number = step_of(tmp_path, rows, batch_size=4, accumulation=1)
    by_tokens = step_of(tmp_path, rows, batch_size=1, accumulation=9, max_tokens_per_batch=330)
    for name, step in by_number.items():
        assert (by_tokens[name] - step).norm() <= 1e-6 * step.norm() + 1e-12, name


# Streams


def stream(rows, shards=1):
    def read(shard):
        for number in shard:
            yield from ({ID: f"g{i}", "tokens": 10 * (i % 7) + 40} for i in range(number, rows, shards))

    return IterableDataset.from_generator(read, gen_kwargs={"shard": list(range(shards))})


def streamed_batches(dataset, **options):
    return StreamedBatches(dataset, lambda row, epoch: [dict(row, epoch=epoch)], lambda row: row["tokens"], **options)


@pytest.mark.parametrize("budget", [None, 200])
@pytest.mark.parametrize("shards", [1, 4])
def test_a_stream_is_evaluated_once_with_equally_many_batches_on_every_rank(budget, shards):
    ranks = [
        list(streamed_batches(stream(31, shards), batch_size=3, budget=budget, training=False, rank=r, world_size=3))
        for r in range(3)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    assert sorted(int(row[ID][1:]) for batches in ranks for batch in batches for row in batch) == list(range(31))


@pytest.mark.parametrize("shards", [1, 4])
def test_a_training_stream_never_ends_and_shows_every_group_in_each_pass(shards):
    seen = []
    for rank in range(2):
        batches = streamed_batches(
            stream(40, shards), budget=260, packing_buffer=8, shuffle_buffer=10, rank=rank, world_size=2, seed=1
        )
        first = list(itertools.islice(batches, 60))
        assert first == list(itertools.islice(batches, 60))
        assert all(len(batch) * max(row["tokens"] for row in batch) <= 260 for batch in first)
        counts = Counter((row["epoch"], row[ID]) for batch in first for row in batch)
        assert set(counts.values()) == {1}
        passes = [{name for epoch, name in counts if epoch == number} for number in (0, 1)]
        orders = [[row[ID] for batch in first for row in batch if row["epoch"] == number] for number in (0, 1)]
        assert orders[0] != orders[1]
        seen.append(passes)
    for one, other in zip(*seen, strict=True):
        assert not one & other and len(one | other) == 40
    with pytest.raises(ValueError, match="group 'g0' has 40 tokens"):
        next(iter(streamed_batches(stream(3), budget=30)))
    with pytest.raises(ValueError, match="no group for process 1 of 2"):
        next(iter(streamed_batches(stream(1), rank=1, world_size=2)))


# Sources


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Six groups as Parquet, and as published pairs."""
    folder = tmp_path_factory.mktemp("stored")
    rows = [simulate_group(seed, size=84, candidates=3).to_row() for seed in range(6)]
    write_groups(rows, folder / "groups")
    raw = load_groups(folder / "groups").with_format("arrow")
    export_pairs(
        (raw[i : i + 1].to_pylist()[0] for i in range(6)), folder / "pairs", list(rows[0]["candidates"][0]["scores"])
    )
    return SimpleNamespace(folder=folder, rows=rows)


def names_of(dataset):
    rows = GroupRows(dataset) if isinstance(dataset, Dataset) else dataset
    if isinstance(dataset, Dataset):
        return [dataset[i][ID] for i in range(len(rows))]
    return [row[ID] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True])
def test_a_mixture_of_parquet_published_pairs_and_simulated_groups(stored, tmp_path, monkeypatch, streaming):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    entries = [
        {"path": str(stored.folder / "groups"), "weight": 1},
        {"path": str(stored.folder / "pairs" / "pairs.json"), "format": "editreward-data", "weight": 2},
        {"path": "simulated", "groups": 70, "start": 500, "weight": 1},
    ]
    arguments = GroupDataArguments(datasets=entries, dataset_streaming=streaming, simulated_image_size=84)
    mixture = load_train_dataset(arguments, seed=1)
    simulated = [f"simulated-train-{seed:06d}" for seed in range(500, 570)]
    if streaming:
        names = [row[ID] for row in itertools.islice(mixture, 60)]
        again = [row[ID] for row in itertools.islice(load_train_dataset(arguments, seed=1), 60)]
        other = [row[ID] for row in itertools.islice(load_train_dataset(arguments, seed=2), 60)]
        assert names == again != other
        assert 5 <= sum(name in simulated for name in names) <= 27
    else:
        names = names_of(mixture)
        assert len(names) == 82 and set(names[12:]) == set(simulated)
        assert sorted(names[:6]) == sorted(names[6:12]) == sorted(row[ID] for row in stored.rows)
        batch = EditGroupCollator(build_processor())([mixture[0], mixture[6], mixture[12]])
        assert len(batch["labels"]) == 3 + 3 + 7
    trainer = make_trainer(tmp_path, stored.rows, per_device_train_batch_size=4, max_steps=2)
    trainer.train_dataset = mixture
    found = [len(b["group_ids"]) for b in itertools.islice(trainer.get_train_dataloader(), 3)]
    assert found == [4, 4, 4]
    if not streaming:
        assert len(trainer.get_train_dataloader()) == 3  # 3 + 6 + 3 groups


def test_evaluation_sets_have_names_and_faults_of_a_mixture_are_told(stored):
    groups = str(stored.folder / "groups")
    arguments = GroupDataArguments(
        dataset_name=groups,
        eval_datasets=[{"path": groups, "split": "train", "label": "mine"}, {"path": "simulated", "split": "test"}],
    )
    evaluated = load_eval_dataset(arguments)
    assert list(evaluated) == ["mine", "simulated"] and len(evaluated["mine"]) == 6
    with pytest.raises(ValueError, match="has no field fraction.*Its fields are path, name"):
        GroupDataArguments(datasets=[{"path": groups, "fraction": 1}])
    two = [{"path": groups, "weight": 1}, {"path": "simulated"}]
    with pytest.raises(ValueError, match="for all or for none"):
        load_train_dataset(GroupDataArguments(datasets=two))
    with pytest.raises(ValueError, match="Nobody knows how long"):
        load_train_dataset(GroupDataArguments(datasets=[two[1], two[1]], dataset_streaming=True))
    with pytest.raises(ValueError, match="have one label"):
        load_eval_dataset(GroupDataArguments(eval_datasets=[two[1], two[1]]))
    with pytest.raises(ValueError, match="'pairs' is unknown. Known are editreward-data"):
        load_train_dataset(GroupDataArguments(dataset_name=groups, dataset_format="pairs"))
    with pytest.raises(ValueError, match="nothing to evaluate on"):
        load_eval_dataset(GroupDataArguments(datasets=two))


def test_a_simulated_stream_is_the_simulated_dataset():
    stream = load_groups("simulated", "train", streaming=True, simulated=SimulatedGroups(70, 3, 84))
    assert [row[ID] for row in stream] == [f"simulated-train-{seed:06d}" for seed in range(3, 73)]
    assert stream.num_shards == 2


# Bad rows

FAULTS = {
    "missing": lambda row: row["candidates"][1].update(image=None),
    "cut off": lambda row: row["candidates"][1].update(image={"bytes": cut_off(), "path": None}),
    "no candidates": lambda row: row.update(candidates=[]),
    "no score": lambda row: row["candidates"][0].update(scores={SCORE: 1.0}),
    "not finite": lambda row: row["candidates"][0].update(scores={SCORE: math.inf, "visual_quality": 1.0}),
    "preference": lambda row: row.update(preferences=[{"chosen": 0, "rejected": 7, "weight": 1.0}]),
    "no source": lambda row: row.update(source_images=None),
}


def cut_off():
    data = io.BytesIO()
    make_image(1).save(data, "PNG")
    return data.getvalue()[:-40]


@pytest.mark.parametrize(
    ("fault", "options"),
    [
        *((fault, {}) for fault in FAULTS),
        *((fault, {"split_into_pairs": True}) for fault in FAULTS),
        ("missing", {"max_tokens_per_batch": 400}),
        ("no source", {"max_tokens_per_batch": 400}),
    ],
)
def test_a_bad_row_stops_with_its_id_or_is_skipped_and_listed(tmp_path, fault, options):
    rows = make_rows()[:2]
    rows[1] = broken(rows[1], FAULTS[fault])
    with pytest.raises(ValueError, match="group 'group-1'"):
        list(make_trainer(tmp_path, rows, **options).get_train_dataloader())
    batches = list(make_trainer(tmp_path, rows, on_bad_row="skip", **options).get_train_dataloader())
    # Of a group that is split, the pairs without the fault are good.
    partly = {"group-1"} if "split_into_pairs" in options and fault in ("cut off", "no score", "not finite") else set()
    assert {name for batch in batches for name in batch["group_ids"]} == {"group-0"} | partly
    skipped = {entry for batch in batches for entry in batch["skipped_rows"]}
    assert {name for name, _ in skipped} == {"group-1"} and all(reason for _, reason in skipped)


def test_a_skipped_row_changes_nothing_about_the_step_but_itself(tmp_path):
    rows = make_rows()
    bad = broken(make_row(5, SCORES[0]), FAULTS["cut off"])
    with_bad = step_of(tmp_path / "bad", [*rows, bad], batch_size=1, accumulation=5, on_bad_row="skip")
    without = step_of(tmp_path / "good", rows, batch_size=1, accumulation=4)
    for name, step in without.items():
        assert (with_bad[name] - step).norm() <= 1e-6 * step.norm() + 1e-12, name


def test_skipped_rows_are_listed_by_split_and_in_a_file_that_a_resumed_run_goes_on_with(tmp_path, caplog):
    rows = make_rows()
    rows[0] = broken(rows[0], FAULTS["missing"])
    evaluated = [make_rows()[3], broken(make_row(8, SCORES[0]), FAULTS["not finite"])]
    trainer = make_trainer(
        tmp_path, rows, eval_rows=evaluated, on_bad_row="skip", num_train_epochs=2, eval_strategy="epoch"
    )
    trainer.train()
    lines = [json.loads(line) for line in (tmp_path / "skipped_rows.jsonl").read_text().splitlines()]
    assert [(line["split"], line["group_id"]) for line in lines] == [("train", "group-0"), ("eval", "group-8")]
    assert "edited[1]" in lines[0]["reason"] and "score inf" in lines[1]["reason"]
    assert trainer.evaluate()["eval_num_groups"] == 1
    alone = make_trainer(tmp_path, rows, (trainer.model, trainer.processing_class), eval_rows=evaluated[:1])
    found, expected = trainer.evaluate(), alone.evaluate()
    for name in ("eval_accuracy", "eval_std_visual_quality", "eval_loss"):
        assert found[name] == expected[name]

    resumed = BadRows(tmp_path)
    resumed.start(resume=True, is_main_process=True)
    resumed.add("train", [("group-0", lines[0]["reason"]), ("group-9", "why")], used=1)
    resumed.gather(is_main_process=True)
    assert len((tmp_path / "skipped_rows.jsonl").read_text().splitlines()) == 3
    resumed.start(resume=False, is_main_process=True)
    assert not (tmp_path / "skipped_rows.jsonl").exists()
    hopeless = BadRows(tmp_path)
    with pytest.raises(ValueError, match="The first 32 rows can't be used.*: no reason"):
        hopeless.add("train", [(f"g{i}", "no reason") for i in range(32)], used=0)


def test_an_evaluation_set_without_a_usable_row_is_named(tmp_path):
    bad = broken(make_row(8, SCORES[0]), FAULTS["missing"])
    trainer = make_trainer(tmp_path, make_rows(), eval_rows=[bad], on_bad_row="skip")
    with pytest.raises(ValueError, match=r"No row of the evaluation set \('eval'\).*skipped_rows.jsonl"):
        trainer.evaluate()
    assert "group-8" in (tmp_path / "skipped_rows.jsonl").read_text()


def test_options_that_contradict_each_other_are_refused(tmp_path):
    for options, message in (
        ({"max_candidates": 1}, "2 or more"),
        ({"max_candidates": 2, "split_into_pairs": True}, "Unset one"),
        ({"max_tokens_per_batch": 0}, "positive"),
        ({"on_bad_row": "replace"}, "on_bad_row"),
        ({"train_sampling_strategy": "group_by_length"}, "max_tokens_per_batch"),
    ):
        with pytest.raises(ValueError, match=message):
            EditRewardTrainingArguments(output_dir=str(tmp_path), use_cpu=True, bf16=False, **options)


def test_waiting_for_data_is_a_share_of_the_time_since_the_last_log(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    wait, accelerator = DataWait(), Accelerator(cpu=True)
    for waited, worked in ((1.0, 2.0), (0.5, 1.5)):
        with wait.measure():
            now[0] += waited
        now[0] += worked
    assert wait.pop(accelerator) == pytest.approx(0.3)
    now[0] += 2.0
    assert wait.pop(accelerator) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--max_tokens_per_batch=400"]])
def test_a_rank_whose_only_row_is_bad_goes_along_with_the_others(tmp_path, options):
    model, processor = build(head_dropout=0.0)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    rows = [simulate_group(seed, size=84, candidates=3).to_row() for seed in range(3)]
    write_groups(rows, tmp_path / "good")
    rows[1]["candidates"][0]["image"] = {"bytes": cut_off(), "path": None}
    write_groups(rows, tmp_path / "bad")
    common = [
        f"--model_name_or_path={tmp_path / 'model'}",
        "--on_bad_row=skip",
        "--dataset_train_split=train",
        "--dataset_test_split=train",
        "--max_steps=1",
        "--gradient_accumulation_steps=2",
        "--optim=sgd",
        "--learning_rate=1.0",
        "--lr_scheduler_type=constant",
        "--warmup_steps=0",
        "--max_grad_norm=0",
        *options,
    ]
    runs = {"one": 1, "two": 2}
    for name, processes in runs.items():
        words = [*(o for o in SCRIPT if not o.startswith(("--dataset", "--max_steps"))), *common]
        words += [f"--dataset_name={tmp_path / 'bad'}", f"--output_dir={tmp_path / name}"]
        words += [f"--per_device_train_batch_size={4 if processes == 1 else 1}"]
        (tmp_path / name).mkdir()
        codes = run_ranks(as_script, ROOT / "train_trl.py", *words, folder=tmp_path / name, ranks=processes)
        assert set(codes) == {0}, errors_of(tmp_path / name)
        lines = (tmp_path / name / "skipped_rows.jsonl").read_text().splitlines()
        assert {(json.loads(line)["split"], json.loads(line)[ID]) for line in lines} == {
            ("train", rows[1][ID]),
            ("eval", rows[1][ID]),
        }
    start = load_file(tmp_path / "model" / "model.safetensors")
    one, two = (load_file(tmp_path / run / "model.safetensors") for run in runs)
    for name, value in one.items():
        step = (value - start[name]).norm()
        assert (two[name] - value).norm() <= 1e-3 * step + 1e-6, name


def test_a_negative_weight_of_the_dense_losses_is_refused():
    with pytest.raises(ValueError, match="`dense_weight` must be 0 or more, got -0.1"):
        GroupDataArguments(dense_weight=-0.1)
