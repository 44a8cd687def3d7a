"""Finds a benchmark's data, here or on the Hub, and imports them first where they are in the published format."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download

from editreward.benchmarks.benchmark import Benchmark, BenchmarkData, DataRequest
from editreward.data.benchmark_items import BENCHMARK_FILE, read_benchmark
from editreward.data.importers.reading import Source, sources_of
from editreward.data.importers.running import FAULTS_FILE, REPORT_FILE, WORK_FOLDER, ImportOptions, import_dataset
from editreward.data.sources import StoredRows, is_saved_to_disk
from editreward.scorers.fingerprints import content_hash
from editreward.scorers.folders import cache_folder
from editreward.scorers.processes import Processes


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
    name = data or benchmark.hub
    request = DataRequest(name, images, split, revision, cache or cache_folder(), processes, progress)
    if benchmark.make is not None:
        _refuse("is made on the spot", benchmark.name, images=images, split=split, revision=revision)
        return benchmark.make(request)
    if name is None:
        raise ValueError(
            f"{benchmark.name} is in no Hub dataset of a format that is known here: name a folder or file with --data "
            "(docs/benchmarks.md)."
        )
    found: tuple[Path, str | None] | None = None
    if processes.is_main:
        if Path(name).exists():
            _refuse("is here, not on the Hub", name, revision=revision)
            found = _local(benchmark, Path(name), request), None
        else:
            found = _from_hub(benchmark, name, request)
    folder, commit = processes.from_main(found)
    items = list(read_benchmark(folder))
    others = sorted({item.benchmark for item in items} - {benchmark.name})
    if others:
        raise ValueError(f"{name} holds {', '.join(others)}, not {benchmark.name}.")
    return BenchmarkData(name, StoredRows(str(folder)), items, commit, _import_report(folder))


def _refuse(why: str, name: str, **options: str | None) -> None:
    """Raise a `ValueError` if an option was given that has no effect here."""
    given = [f"--{option}" for option, value in options.items() if value is not None]
    if given:
        raise ValueError(f"{name} {why}: leave out {', '.join(given)}.")


def _refuse_for_groups(name: str, request: DataRequest) -> None:
    _refuse("holds groups, not the published format", name, images=request.images, split=request.split)


def _local(benchmark: Benchmark, path: Path, request: DataRequest) -> Path:
    """The folder of the benchmark in a folder or file."""
    images, split = request.images, request.split
    if (path / BENCHMARK_FILE).is_file():
        _refuse_for_groups(str(path), request)
        return path
    # What is imported is kept for as long as no file of the input or of the images changes.
    places = sorted({path if path.is_dir() else path.parent, Path(images) if images else path})
    stamps = [_stamp(place, request.cache) for place in places]
    stamp = content_hash(json.dumps([str(path.resolve()), images, split, stamps]))
    if path.is_dir() and not is_saved_to_disk(path):
        sources = sources_of(str(path), split)
    else:
        sources = [Source(str(path), split)] if split else [Source(str(path))]
    return _import(benchmark, sources, request, stamp)


def _stamp(place: Path, cache: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of the files that an import may read."""
    files = sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]
    stats = [(str(file), file.stat()) for file in files if not file.is_relative_to(cache)]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _from_hub(benchmark: Benchmark, name: str, request: DataRequest) -> tuple[Path, str]:
    """The folder of the benchmark in a Hub dataset, and the commit."""
    try:
        info = HfApi().dataset_info(name, revision=request.revision)
    except Exception as error:
        # Without a network it is one of an HTTP library, which differs between versions of the Hub's.
        raise FileNotFoundError(
            f"{name} is neither a folder or file here nor a Hub dataset that can be reached ({error}). Name a local "
            "copy with --data."
        ) from error
    commit = str(info.sha)
    if any(file.rfilename == BENCHMARK_FILE for file in info.siblings or ()):
        _refuse_for_groups(name, request)
        return Path(snapshot_download(name, repo_type="dataset", revision=commit)), commit
    stamp = content_hash(name, commit, str(request.split), str(request.images))
    return _import(benchmark, sources_of(name, request.split, commit), request, stamp), commit


def _import(benchmark: Benchmark, sources: Sequence[Source], request: DataRequest, stamp: str) -> Path:
    """Import into the cache, unless the same is there. What is faulty is left out and listed there."""
    assert benchmark.format is not None
    folder = request.cache / "imports" / f"{benchmark.name}-{stamp[:32]}"
    if not (folder / REPORT_FILE).is_file() or (folder / WORK_FOLDER).exists():
        options = ImportOptions(images=request.images, on_fault="list")
        import_dataset(benchmark.format, sources, folder, options, request.progress)
    return folder


def _import_report(folder: Path) -> dict[str, Any] | None:
    if not (folder / REPORT_FILE).is_file():
        return None
    report: Mapping[str, Any] = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    faults = folder / FAULTS_FILE
    listed = str(faults) if faults.is_file() else None
    return {name: report[name] for name in ("rows", "errors", "notes")} | {"listed_in": listed}
