"""The benchmarks: which data, which items, which protocol; and one run of a scorer on one of them."""

import io
import json
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from configuration_editreward import DEFAULT_DIMENSIONS
from editreward.benchmarks import protocols
from editreward.benchmarks.protocols import Answers, Measure, PairKey
from editreward.benchmarks.published import POSITION_BIAS, PUBLISHED
from editreward.benchmarks.runner import (
    GroupRecord,
    Inspection,
    PairQuestion,
    Preparation,
    Rows,
    Runner,
    shuffled_instructions,
)
from editreward.benchmarks.simulated_protocol import simulated
from editreward.data.benchmark_items import BENCHMARK_FILE, BenchmarkItem, read_benchmark
from editreward.scorers.baselines import decode, resized_to
from editreward.scorers.cache import cache_folder
from editreward.scorers.processes import Processes
from editreward.scorers.scorers import (
    EditGroup,
    GroupScores,
    PairwiseJudge,
    Scorer,
    Unscored,
    content_hash,
)

RESULT_VERSION = 1
SIMULATED_BENCHMARK = "configs/simulated_benchmark.json"
LISTED_FAULTS = 1000
"""Faults that a result lists one by one; all are counted."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        name, title: on the command line, and in reports.
        protocol: from answers to measures.
        hub: id of the dataset on the Hub, in a format that the importer of the benchmark's name reads; None where the
            user has to say where the data are.
        ties: whether a judge of pairs is asked about ties, by item.
        preparation: what to do to images before they are judged.
        names: which of a scorer's dimensions answers a dimension of the benchmark, in order of preference.
    """

    name: str
    title: str
    protocol: Callable[[Answers], list[Measure]]
    hub: str | None = None
    ties: Callable[[BenchmarkItem], bool] = lambda item: False
    preparation: Preparation | None = None
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass
class BenchmarkData:
    """Where a benchmark's data came from, and what they hold.

    Attributes:
        name: folder, file or Hub id.
        rows, items: the groups as they are stored, and what is asked about them.
        revision: commit of a Hub dataset.
        imported: the report of the import, where there was one.
        tags: further subsets by group id.
        notes: what a reader of any result on them must know.
    """

    name: str
    rows: Rows
    items: list[BenchmarkItem]
    revision: str | None = None
    imported: dict[str, Any] | None = None
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class StoredRows:
    """All splits of a dataset of groups in a folder, read anew each time they are gone through."""

    folder: str

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        from editreward.data.storage import raw_groups, stream_splits

        for dataset in stream_splits(self.folder).values():
            yield from raw_groups(dataset)


def resize_edited(group: EditGroup) -> EditGroup:
    """The group with every edited image at the size of the first source image."""
    size = decode(group.sources[0]).size
    return EditGroup(group.sources, group.instruction, tuple(_at_size(image, size) for image in group.edited))


def _at_size(data: bytes, size: tuple[int, int]) -> bytes:
    image = decode(data)
    if image.size == size:
        return data
    out = io.BytesIO()
    resized_to(image, size).save(out, "PNG", compress_level=1)
    return out.getvalue()


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark("genai-bench", "GenAI-Bench, image editing", protocols.pairs_with_ties, ties=lambda item: True),
        Benchmark("aurora-bench", "AURORA-Bench", protocols.aurora, ties=lambda item: True),
        Benchmark("imagenhub", "ImagenHub, image editing", protocols.ratings),
        Benchmark(
            "editreward-bench",
            "EditReward-Bench (TIGER-Lab)",
            protocols.tuples,
            hub="TIGER-Lab/EditReward-Bench",
            ties=lambda item: len(item.candidates) == 2,
        ),
        Benchmark(
            "editscore-bench",
            "EditReward-Bench (EditScore)",
            protocols.tasks,
            hub="EditScore/EditReward-Bench",
            preparation=Preparation("edited images at the size of the source", resize_edited),
            names={
                "prompt_following": ("prompt_following", "instruction_following"),
                "consistency": ("consistency",),
            },
        ),
        Benchmark(
            "editreward-compass",
            "EditReward-Compass",
            protocols.near_ties,
            ties=lambda item: True,
            names={
                "IA": ("IA", "instruction_following"),
                "VC": ("VC", "consistency"),
                "VQ": ("VQ", "visual_quality"),
            },
        ),
        Benchmark(
            "simulated",
            "Simulated edits, held out",
            simulated,
            ties=lambda item: len(item.candidates) == 2,
            names={name: (name,) for name in DEFAULT_DIMENSIONS},
        ),
    )
}
"""By name."""


def load_benchmark(
    benchmark: Benchmark,
    data: str | None = None,
    *,
    images: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    cache: Path | None = None,
    processes: Processes | None = None,
    progress: bool | None = None,
) -> BenchmarkData:
    """Find a benchmark's data, and import them first where they are in the published format.

    Args:
        benchmark: which one.
        data: a folder with `benchmark.jsonl` (imported or built), a file or folder in the published format, or the id
            of a Hub dataset in either. Default: the benchmark's own dataset, where it has one.
        images: folder that image paths of the published format are relative to.
        split, revision: of a Hub dataset; by default all its splits, and the newest commit.
        cache: where to put imports; `cache_folder()` by default.
        processes: the first one imports, the others wait for it.
        progress: show progress bars; None: in a terminal.

    Raises:
        ValueError: the benchmark has no default and `data` is None, the data are of another benchmark, or an option
            has no effect on them.
        FileNotFoundError: there are no such data.
    """
    processes = processes or Processes()
    cache = cache or cache_folder()
    options = {"--images": images, "--split": split, "--revision": revision}
    if benchmark.name == "simulated":
        _refuse("is made on the spot", "simulated", options)
        return _simulated(data, cache, processes, progress)
    name = data or benchmark.hub
    if name is None:
        raise ValueError(
            f"{benchmark.name} is in no Hub dataset of a format that is known here: name a folder or file with --data "
            "(docs/benchmarks.md)."
        )
    found: tuple[str, str | None, dict[str, Any] | None] | None = None
    if processes.is_main:
        if Path(name).exists():
            _refuse("is here, not on the Hub", name, {"--revision": revision})
            found = _local(benchmark, Path(name), images, split, cache, progress)
        else:
            found = _from_hub(benchmark, name, images, split, revision, cache, progress)
    folder, commit, imported = processes.from_main(found)
    items = list(read_benchmark(folder))
    others = sorted({item.benchmark for item in items} - {benchmark.name})
    if others:
        raise ValueError(f"{name} holds {', '.join(others)}, not {benchmark.name}.")
    return BenchmarkData(name, StoredRows(str(folder)), items, commit, imported)


def _refuse(why: str, name: str, options: Mapping[str, str | None]) -> None:
    """Raise a `ValueError` if an option was given that has no effect here."""
    given = [option for option, value in options.items() if value is not None]
    if given:
        raise ValueError(f"{name} {why}: leave out {', '.join(given)}.")


def _local(
    benchmark: Benchmark, path: Path, images: str | None, split: str | None, cache: Path, progress: bool | None
) -> tuple[str, None, dict[str, Any] | None]:
    from editreward.data.importers import Source

    if (path / BENCHMARK_FILE).is_file():
        _refuse("holds groups, not the published format", str(path), {"--images": images, "--split": split})
        return str(path), None, _import_report(path)
    # What is imported is kept for as long as no file of the input or of the images changes.
    places = sorted({path if path.is_dir() else path.parent, Path(images) if images else path})
    stamps = [_stamp(place, cache) for place in places]
    stamp = content_hash(json.dumps([str(path.resolve()), images, split, stamps]))
    is_saved = any((path / name).exists() for name in ("dataset_dict.json", "state.json"))
    if path.is_dir() and not is_saved:
        sources = _sources(str(path), split, None)
    else:
        sources = [Source(str(path), split)] if split else [Source(str(path))]
    folder = _import(benchmark, sources, images, cache, stamp, progress)
    return str(folder), None, _import_report(folder)


def _stamp(place: Path, cache: Path) -> list[Any]:
    """Names, sizes and times of the files that an import may read."""
    files = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]
    stats = [(str(file), file.stat()) for file in files if not file.is_relative_to(cache)]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _sources(name: str, split: str | None, revision: str | None) -> list[Any]:
    """All splits, or one, of all configurations of a dataset here or on the Hub."""
    from datasets import get_dataset_config_names, get_dataset_split_names

    from editreward.data.importers import Source
    from editreward.data.storage import opening

    sources = []
    with opening(name):
        for config in get_dataset_config_names(name, revision=revision):
            splits = get_dataset_split_names(name, config_name=config, revision=revision)
            sources += [Source(name, one, config, revision) for one in splits if split in (None, one)]
    if not sources:
        raise ValueError(f"{name} has no split {split!r}.")
    return sources


def _from_hub(
    benchmark: Benchmark,
    name: str,
    images: str | None,
    split: str | None,
    revision: str | None,
    cache: Path,
    progress: bool | None,
) -> tuple[str, str, dict[str, Any] | None]:
    from huggingface_hub import HfApi, snapshot_download

    try:
        info = HfApi().dataset_info(name, revision=revision)
    except Exception as error:
        # Without a network it is one of an HTTP library, which differs between versions of the Hub's.
        raise FileNotFoundError(
            f"{name} is neither a folder or file here nor a Hub dataset that can be reached ({error}). Name a local "
            "copy with --data."
        ) from error
    commit = str(info.sha)
    if any(file.rfilename == BENCHMARK_FILE for file in info.siblings or ()):
        _refuse("holds groups, not the published format", name, {"--images": images, "--split": split})
        folder = Path(snapshot_download(name, repo_type="dataset", revision=commit))
        return str(folder), commit, _import_report(folder)
    sources = _sources(name, split, commit)
    folder = _import(benchmark, sources, images, cache, content_hash(name, commit, str(split), str(images)), progress)
    return str(folder), commit, _import_report(folder)


def _import(
    benchmark: Benchmark, sources: Sequence[Any], images: str | None, cache: Path, stamp: str, progress: bool | None
) -> Path:
    """Import into the cache, unless the same is there. What is faulty is left out and listed there."""
    from editreward.data.importers import FORMATS, import_dataset
    from editreward.data.importers.running import REPORT_FILE, WORK_FOLDER

    folder = cache / "imports" / f"{benchmark.name}-{stamp[:32]}"
    if not (folder / REPORT_FILE).is_file() or (folder / WORK_FOLDER).exists():
        import_dataset(FORMATS[benchmark.name], sources, folder, images=images, on_fault="list", progress=progress)
    return folder


def _import_report(folder: Path) -> dict[str, Any] | None:
    from editreward.data.importers.running import FAULTS_FILE, REPORT_FILE

    if not (folder / REPORT_FILE).is_file():
        return None
    report: dict[str, Any] = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    faults = folder / FAULTS_FILE
    listed = str(faults) if faults.is_file() else None
    return {name: report[name] for name in ("rows", "errors", "notes")} | {"listed_in": listed}


def _simulated(data: str | None, cache: Path, processes: Processes, progress: bool | None) -> BenchmarkData:
    """A simulated benchmark, which the first process makes where it is not in the cache."""
    from editreward.benchmarks.simulated import novelty_in_words
    from editreward.benchmarks.simulated_benchmark import SimulatedBenchmark
    from editreward.curation.benchmark import GROUPS_FOLDER

    file = Path(data) if data else simulated_benchmark()
    if not file.is_file():
        raise FileNotFoundError(
            f"--data: {file} is no file. simulated takes the description of another simulated benchmark, as "
            f"{SIMULATED_BENCHMARK} is one."
        )
    described = SimulatedBenchmark.from_json(file)
    folder = Path(processes.from_main(str(described.load(cache, progress)) if processes.is_main else None))
    items = list(read_benchmark(folder / GROUPS_FOLDER))
    tags = {
        item.group_id: {
            "novelty": novelty_in_words(item.details["unseen_wording"], item.details["unseen_combination"])
        }
        for item in items
    }
    rows = StoredRows(str(folder / GROUPS_FOLDER))
    return BenchmarkData(data or SIMULATED_BENCHMARK, rows, items, tags=tags, notes=described.notes(folder))


def simulated_benchmark() -> Path:
    """The description of the simulated benchmark, in the repository or where the package was installed.

    Raises:
        FileNotFoundError: it is in neither.
    """
    in_repository = Path(__file__).resolve().parents[2] / SIMULATED_BENCHMARK
    installed = Path(sysconfig.get_path("data")) / "share" / "editreward" / SIMULATED_BENCHMARK
    for file in (in_repository, installed):
        if file.is_file():
            return file
    raise FileNotFoundError(f"Neither {in_repository} nor {installed} is there: name a description with --data.")


def usable_items(
    items: Sequence[BenchmarkItem], inspection: Inspection
) -> tuple[list[BenchmarkItem], dict[str, list[str]]]:
    """The items that can be judged, and the ids of the others by what is wrong with them."""
    lost = {group_id: kind for kind, ids in inspection.left_out.items() for group_id in ids}
    left_out: dict[str, list[str]] = {}
    kept: list[BenchmarkItem] = []
    for item in items:
        fault = lost.get(item.group_id) or _item_fault(item, inspection.groups.get(item.group_id))
        if fault:
            left_out.setdefault(fault, []).append(item.item_id)
        else:
            kept.append(item)
    said: dict[Any, set[Any]] = {}
    for item in kept:
        for place, statement in _statements(item):
            said.setdefault(place, set()).add(statement)
    usable: list[BenchmarkItem] = []
    seen: set[Any] = set()
    for item in kept:
        statements = _statements(item)
        same = (item.group_id, item.subset, item.dimension, frozenset(statements))
        if any(len(said[place]) > 1 for place, _ in statements):
            left_out.setdefault("contradictory_labels", []).append(item.item_id)
        elif same in seen:
            left_out.setdefault("repeated_item", []).append(item.item_id)
        else:
            seen.add(same)
            usable.append(item)
    return usable, left_out


def _item_fault(item: BenchmarkItem, group: GroupRecord | None) -> str | None:
    if group is None:
        return "unknown_group"
    named = {*item.candidates, *(index for c in item.comparisons for index in (c.first, c.second))}
    if not item.candidates or not all(0 <= index < group.size for index in named):
        return "unknown_candidate"
    if item.score is None:
        pairs = {frozenset((comparison.first, comparison.second)) for comparison in item.comparisons}
        if pairs != {frozenset(pair) for pair in combinations(item.candidates, 2)} or len(item.candidates) < 2:
            return "incomplete_comparisons"
    return None


def _statements(item: BenchmarkItem) -> list[tuple[Any, Any]]:
    """What an item says, as (about what, what), the same for either order of a pair."""
    about = (item.group_id, item.dimension)
    if item.score is not None:
        return [((*about, item.subset, item.candidates[0]), item.score)]
    found = []
    for c in item.comparisons:
        winner = {"first": c.first, "second": c.second, "tie": None}[c.verdict]
        found.append(((*about, frozenset((c.first, c.second))), winner))
    return found


@dataclass(frozen=True)
class BenchmarkResult:
    """What a run found: all that `result.json` holds, and the answers it was computed from.

    Attributes:
        benchmark: which one.
        model: name, fingerprint, revision and notes of the scorer or judge.
        data: name, revision and hash of the dataset; counts; faults; what was left out and why.
        settings: of the run.
        measures: the numbers.
        environment: versions of libraries, and when.
        answers: what the measures were computed from, for reports.
    """

    benchmark: Benchmark
    model: dict[str, Any]
    data: dict[str, Any]
    settings: dict[str, Any]
    measures: list[Measure]
    environment: dict[str, Any]
    answers: Answers

    def to_dict(self) -> dict[str, Any]:
        """As JSON data."""
        published = PUBLISHED.get(self.benchmark.name)
        tables = [published.to_dict()] if published else []
        if self.settings["position_bias"]:
            tables.append(POSITION_BIAS.to_dict())
        return {
            "version": RESULT_VERSION,
            "benchmark": self.benchmark.name,
            "model": self.model,
            "data": self.data,
            "settings": self.settings,
            "measures": [measure.to_dict() for measure in self.measures],
            "published": tables,
            "environment": self.environment,
        }

    @property
    def notes(self) -> list[str]:
        """What a reader of the numbers must know."""
        limit = self.settings["limit"]
        limited = [] if limit is None else [f"only the first {limit:,} groups: this is no result of the benchmark."]
        return [*self.model["notes"], *self.data["notes"], *limited]

    def markdown(self) -> str:
        """The measures as a table, with what was left out."""
        lines = [f"# {self.benchmark.title}: {self.model['name']}", ""]
        for note in self.notes:
            lines += [f"Note: {note}", ""]
        lines += ["| measure | of | value | 95 % interval | n | random scores | coin |", "|---" * 7 + "|"]
        lines += [_table_row(measure) for measure in self.measures]
        data = self.data
        lines += [
            "",
            f"{data['items_judged']:,} of {data['items']:,} items judged, in {data['groups_judged']:,} groups.",
        ]
        for kind, ids in data["items_left_out"].items():
            lines.append(f"Left out: {len(ids):,} items, {kind.replace('_', ' ')}.")
        imported = data["imported"] or {"errors": {}}
        for kind, count in imported["errors"].items():
            lines.append(f"Left out by the import: {count:,} x {kind}, listed in {imported['listed_in']}.")
        for kind, count in data["faults"].items():
            lines.append(f"Found in the data: {count:,} x {kind.replace('_', ' ')}.")
        return "\n".join(lines) + "\n"


def _table_row(measure: Measure) -> str:
    numbers = measure.to_dict()
    scale, digits = (100, 1) if numbers["unit"] == "share" else (1, 3)

    def text(value: float | None) -> str:
        return "-" if value is None else f"{scale * value:.{digits}f}"

    interval = "-" if numbers["low"] is None else f"{text(numbers['low'])} to {text(numbers['high'])}"
    value = text(numbers["value"]) + (" %" if scale == 100 and numbers["value"] is not None else "")
    cells = [measure.name, measure.subset, value, interval, f"{numbers['total']:,}"]
    return f"| {' | '.join([*cells, text(measure.chance), text(measure.coin)])} |"


def run_benchmark(
    benchmark: Benchmark,
    data: BenchmarkData,
    scorer: Scorer | PairwiseJudge,
    runner: Runner,
    *,
    limit: int | None = None,
    shuffle_instructions: bool = False,
    with_position_bias: bool = False,
) -> BenchmarkResult:
    """Run a scorer or a judge of pairs on a benchmark. Every process gets the result.

    Args:
        benchmark, data: what to run.
        scorer: who answers.
        runner: cache, processes and progress bars.
        limit: use only the first so many groups.
        shuffle_instructions: show each group another group's instruction: the control for reading it at all.
        with_position_bias: ask a judge about every pair in both orders.

    Raises:
        ValueError: no item can be judged, or the options do not fit the scorer.
    """
    is_judge = isinstance(scorer, PairwiseJudge)
    if with_position_bias and not is_judge:
        raise ValueError(f"{scorer.name} scores each edit by itself: it has no position bias.")
    if limit is not None and limit < 1:
        raise ValueError(f"The limit must be 1 or more, not {limit}.")
    inspection = runner.inspect(data.rows, limit)
    asked = data.items
    if limit is not None:
        read = {*inspection.groups, *(name for ids in inspection.left_out.values() for name in ids)}
        asked = [item for item in asked if item.group_id in read]
    items, left_out = usable_items(asked, inspection)
    used = {item.group_id for item in items}
    groups = [record for record in inspection.groups.values() if record.group_id in used]
    shown = shuffled_instructions(groups) if shuffle_instructions else None
    records = {group.group_id: group for group in groups}
    shown_first: dict[PairKey, float] = {}
    if isinstance(scorer, PairwiseJudge):
        left_out |= _left_out("single_edits_for_a_judge_of_pairs", [item for item in items if not item.comparisons])
        items = [item for item in items if item.comparisons]
        margins, shown_first, failed = _margins(
            benchmark, data, items, records, scorer, runner, shown, with_position_bias
        )
        has_answer = [all(key in margins for key in _keys(item)) for item in items]
        answered = [item for item, has in zip(items, has_answer, strict=True) if has]
        answers = Answers(answered, records, None, margins, data.tags, benchmark.names)
    else:
        found = runner.score(data.rows, groups, scorer, shown, benchmark.preparation)
        scores = {name: answer for name, answer in found.items() if isinstance(answer, GroupScores)}
        failed = {name: answer.reason for name, answer in found.items() if isinstance(answer, Unscored)}
        has_answer = [item.group_id in scores for item in items]
        answered = [item for item, has in zip(items, has_answer, strict=True) if has]
        records = {name: record for name, record in records.items() if name in scores}
        calibrated = getattr(scorer, "calibrated", False)
        answers = Answers(answered, records, scores, None, data.tags, benchmark.names, calibrated)
    unanswered = [item for item, has in zip(items, has_answer, strict=True) if not has]
    left_out |= _left_out("not_answered", unanswered)
    if not answered:
        counts = ", ".join(f"{kind}: {len(ids)}" for kind, ids in left_out.items()) or "there is none"
        example = f" The first reason: {next(iter(failed.values()))}" if failed else ""
        raise ValueError(f"No item of {data.name} can be judged ({counts}).{example}")
    measures = benchmark.protocol(answers)
    if with_position_bias:
        measures += protocols.position_bias(answers.pairs(), shown_first)
    listed = [asdict(fault) for fault in inspection.faults[:LISTED_FAULTS]]
    return BenchmarkResult(
        benchmark=benchmark,
        model={
            "name": scorer.name + (", instructions shuffled" if shuffle_instructions else ""),
            "kind": "judge of pairs" if is_judge else "scorer",
            "revision": getattr(scorer, "revision", None),
            "calibrated": answers.calibrated,
            "notes": list(getattr(scorer, "notes", ())),
            "fingerprint": scorer.fingerprint,
        },
        data={
            "name": data.name,
            "revision": data.revision,
            "sha256": inspection.digest,
            "rows": inspection.rows,
            "groups_judged": len({item.group_id for item in answered}),
            "items": len(asked),
            "items_judged": len(answered),
            "items_left_out": left_out,
            "groups_left_out": inspection.left_out,
            "not_answered": failed,
            "faults": dict(Counter(fault.kind for fault in inspection.faults)),
            "faults_listed": [{name: value for name, value in fault.items() if name != "split"} for fault in listed],
            "imported": data.imported,
            "notes": data.notes,
        },
        settings={
            "limit": limit,
            "shuffle_instructions": shuffle_instructions,
            "position_bias": with_position_bias,
            "preparation": benchmark.preparation.name if benchmark.preparation else None,
        },
        measures=measures,
        environment=runner.environment(),
        answers=answers,
    )


def _left_out(kind: str, items: Sequence[BenchmarkItem]) -> dict[str, list[str]]:
    return {kind: [item.item_id for item in items]} if items else {}


def _keys(item: BenchmarkItem) -> list[PairKey]:
    return [(item.group_id, item.dimension, c.first, c.second) for c in item.comparisons]


def _margins(
    benchmark: Benchmark,
    data: BenchmarkData,
    items: Sequence[BenchmarkItem],
    records: Mapping[str, GroupRecord],
    judge: PairwiseJudge,
    runner: Runner,
    instructions: Mapping[str, str] | None,
    both_orders: bool,
) -> tuple[dict[PairKey, float], dict[PairKey, float], dict[str, str]]:
    """A judge's answers to all comparisons of the items.

    Published files often have the preferred edit first, which a judge that likes the first would profit from. So each
    pair is shown in an order that a hash of its content decides.

    Returns:
        The margins by comparison, those by the order in which the pair was shown, and by group id why there are none.
    """
    questions: dict[PairKey, PairQuestion] = {}
    order: dict[PairKey, PairKey] = {}
    for item in items:
        for key in _keys(item):
            turned = (*key[:2], key[3], key[2])
            digest = records[item.group_id].digest
            is_turned = int(content_hash(digest, *map(str, sorted(key[2:]))), 16) % 2 == int(key[2] < key[3])
            order[key] = turned if is_turned else key
            for one in (key, turned) if both_orders else (order[key],):
                questions[one] = PairQuestion(one[0], one[2], one[3], item.dimension, benchmark.ties(item))
    asked = runner.compare(
        data.rows, records, list(dict.fromkeys(questions.values())), judge, instructions, benchmark.preparation
    )
    answers = {key: asked[question] for key, question in questions.items()}
    shown = {key: answer for key, answer in answers.items() if not isinstance(answer, Unscored)}
    failed = {key[0]: answer.reason for key, answer in answers.items() if isinstance(answer, Unscored)}
    needed = {key: [key, (*key[:2], key[3], key[2])] if both_orders else [place] for key, place in order.items()}
    margins = {
        key: shown[place] if place == key else -shown[place]
        for key, place in order.items()
        if all(one in shown for one in needed[key])
    }
    return margins, shown, failed
