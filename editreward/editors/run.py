"""The run: every editor over every row, divided over processes, resumed where an earlier run stopped."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from configuration_editreward import DEFAULT_DIMENSIONS
from editreward.editors.dataset import BalancedDraw, DatasetReport, check_sources, write_dataset
from editreward.editors.editors import Edit, Editor
from editreward.editors.instructions import Instructions, SourceRow
from editreward.editors.store import CandidateStore, Key, Record, planned

if TYPE_CHECKING:
    from accelerate import PartialState

WAIT = timedelta(days=30)
"""How long a process waits for slower ones: the default of minutes would end a run of hours."""


@dataclass(frozen=True)
class EditorCount:
    """What became of an editor's candidates.

    Args:
        planned: rows times seeds.
        made: candidates that are there.
        failed: candidates with a reason in the manifest.
        in_dataset: candidates in the dataset.
    """

    planned: int
    made: int
    failed: int
    in_dataset: int

    @property
    def missing(self) -> int:
        """Neither made nor failed: the editor could not be loaded."""
        return self.planned - self.made - self.failed


@dataclass(frozen=True)
class GenerationReport:
    """What a run left behind.

    Args:
        editors: counts by name of the editor.
        failures: the candidates that failed, with their reasons.
        new: candidates made in this run, by all processes.
        unplanned: candidates of these rows in the folder by editors or with seeds that this run does not name. They
            are not in the dataset.
        dataset: what was written.
    """

    editors: dict[str, EditorCount]
    failures: list[Record]
    new: int
    unplanned: int
    dataset: DatasetReport

    @property
    def complete(self) -> bool:
        """Whether every candidate was made and every row is in the dataset."""
        return not self.dataset.left_out and all(count.made == count.planned for count in self.editors.values())


def process_state() -> "PartialState":
    """This process among those that `accelerate launch` or `torchrun` started, and its device.

    Raises:
        ValueError: several were started in a way that accelerate does not see.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    processes = int(os.environ.get("WORLD_SIZE", 1))
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or (processes > 1 and not torch.accelerator.is_available())
    options: dict[str, object] = {}
    if processes > 1:
        options["timeout"] = WAIT
        if not cpu and torch.cuda.is_available():
            options["backend"] = "gloo"  # processes only wait for each other: NCCL would keep the GPU busy meanwhile
    state = PartialState(cpu=cpu, **options)
    if state.num_processes != processes:
        raise ValueError(f"{processes} processes were started, of which accelerate sees {state.num_processes}.")
    return state


def generate(
    instructions: Instructions,
    editors: Sequence[Editor],
    output: str | os.PathLike[str],
    split: str = "train",
    keep: int | None = None,
    draw_seed: int = 0,
    retry_failed: bool = False,
    dimensions: Sequence[str] = DEFAULT_DIMENSIONS,
    state: "PartialState | None" = None,
) -> GenerationReport | None:
    """Make the candidates that are not there yet, then write the dataset.

    Args:
        instructions: the rows.
        editors: the editors, each with its seeds.
        output: folder of the candidates and the dataset.
        split: split of the dataset to write.
        keep: number of candidates of a group that enter the dataset, drawn with editors in balance. All by default.
        draw_seed: seed of the draw.
        retry_failed: try again what failed in an earlier run.
        dimensions: what candidates are to be scored on; their scores are null.
        state: this process; by default as `accelerate launch` started it.

    Returns:
        The report in the main process, None in others.

    Raises:
        ValueError: an editor cannot work, the folder holds candidates of another input, or another run writes there.
    """
    state = state or process_state()
    if keep is not None and keep < 2:
        raise ValueError(f"A group needs at least two candidates, so keep must be 2 or more, not {keep}.")
    store = CandidateStore(output)
    before = make_candidates(instructions, editors, store, retry_failed, state)
    if not state.is_main_process:
        return None
    records = store.read()
    seeds = {editor.name: editor.seeds for editor in editors}
    plan = planned(instructions.ids, seeds)
    made = {key: records[key] for key in plan if key in records and records[key].error is None}
    balanced = None if keep is None else BalancedDraw(keep, draw_seed)
    dataset = write_dataset(instructions, made, seeds, store, Path(output), split, balanced, dimensions)
    return _report(instructions.ids, seeds, before, records, dataset)


def make_candidates(
    instructions: Instructions,
    editors: Sequence[Editor],
    store: CandidateStore,
    retry_failed: bool = False,
    state: "PartialState | None" = None,
) -> dict[Key, Record]:
    """Make the candidates that are not there yet; every process its share.

    Args:
        instructions, editors, retry_failed, state: as for `generate`.
        store: where the candidates go.

    Returns:
        The last word on every candidate when the run began; `store.read()` has what it is now.

    Raises:
        ValueError: as for `generate`.
    """
    state = state or process_state()
    for editor in editors:
        editor.check()
    if state.is_main_process:
        store.prepare({editor.name: editor.settings() for editor in editors})
    state.wait_for_everyone()
    seeds = {editor.name: editor.seeds for editor in editors}
    plan = planned(instructions.ids, seeds)
    before = store.read()
    if state.is_main_process:
        planned_before = {key: before[key] for key in plan if key in before and before[key].error is None}
        check_sources(instructions, planned_before, store)
    state.wait_for_everyone()  # nobody writes before everybody has read, so that all divide the same work
    todo = [key for key in plan if key not in before or (retry_failed and before[key].error is not None)]
    store.open(state.process_index)
    try:
        for editor in editors:
            _run_editor(editor, [key for key in todo if key[1] == editor.name], instructions, store, state)
    finally:
        store.close()
    state.wait_for_everyone()
    return before


def _report(
    ids: Sequence[str],
    seeds: Mapping[str, Sequence[int]],
    before: Mapping[Key, Record],
    records: Mapping[Key, Record],
    dataset: DatasetReport,
) -> GenerationReport:
    """What the run left behind.

    Args:
        ids: of the rows.
        seeds: by name of the editor.
        before: the last word on every candidate when the run began.
        records: and now.
        dataset: what was written.
    """
    plan = planned(ids, seeds)
    made = [key for key in plan if key in records and records[key].error is None]
    failures = [records[key] for key in plan if key in records and records[key].error is not None]
    rows, known = set(ids), set(plan)
    return GenerationReport(
        editors={
            name: EditorCount(
                planned=len(ids) * len(own),
                made=sum(key[1] == name for key in made),
                failed=sum(record.editor == name for record in failures),
                in_dataset=dataset.candidates.get(name, 0),
            )
            for name, own in seeds.items()
        },
        failures=failures,
        new=sum(key not in before or before[key].error is not None for key in made),
        unplanned=sum(key[0] in rows and key not in known and record.error is None for key, record in records.items()),
        dataset=dataset,
    )


def _run_editor(
    editor: Editor, todo: list[Key], instructions: Instructions, store: CandidateStore, state: "PartialState"
) -> None:
    """Make this process's share of an editor's candidates: every n-th of the rows that lack some."""
    from accelerate.utils.memory import clear_device_cache

    rows = [(group_id, list(keys)) for group_id, keys in groupby(todo, key=lambda key: key[0])]
    share = rows[state.process_index :: state.num_processes]
    if not share:
        return
    place = f" (process {state.process_index})" if state.num_processes > 1 else ""
    total = sum(len(keys) for _, keys in share)
    print(f"{editor.name}: {total} candidates to make{place}", file=sys.stderr)
    try:
        edit = editor.load(state.device)
    except Exception as error:  # the other editors can work
        print(
            f"{editor.name} cannot be loaded, so its candidates are left for another run{place}: {reason(error)}",
            file=sys.stderr,
        )
        return
    index = {group_id: number for number, group_id in enumerate(instructions.ids)}
    with tqdm(total=total, desc=editor.name, unit="image", disable=None if state.is_main_process else True) as bar:
        for group_id, keys in share:
            _run_row(edit, index[group_id], keys, instructions, store, bar)
    del edit
    clear_device_cache(garbage_collection=True)  # the next editor needs the room


def _run_row(
    edit: Edit, index: int, keys: list[Key], instructions: Instructions, store: CandidateStore, bar: tqdm
) -> None:
    try:
        row: SourceRow | None = instructions.read(index)
        unreadable = ""
    except (OSError, ValueError) as error:
        row, unreadable = None, reason(error)
    for key in keys:
        if row is None:
            store.add_failure(key, None, unreadable)
        else:
            _make(edit, key, row, store)
        bar.update()


def _make(edit: Edit, key: Key, row: SourceRow, store: CandidateStore) -> None:
    source = row.digest()
    if store.adopt(key, source):
        return
    start = time.monotonic()
    try:
        image = edit(row, key[2])
    except Exception as error:  # whatever went wrong in an editor is this candidate's failure
        store.add_failure(key, source, reason(error), time.monotonic() - start)
        return
    store.add_image(key, source, image, time.monotonic() - start)


def reason(error: Exception) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
