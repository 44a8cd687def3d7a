"""Runs an import in bounded memory, and goes on with one that was interrupted.

First every row is read once and put into a work database, images by reference (`reading`, `images`). Then each group
is assembled from its rows, and finished groups are written in shards; a shard is recorded together with what it
reports, so that a run that was killed at any moment goes on after the last one. At the end the shards get their final
names.
"""

import hashlib
import json
import re
import shutil
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from configuration_editreward import check_choice
from editreward.data.benchmark_items import BENCHMARK_FILE
from editreward.data.importers.faults import ON_FAULT, Faults, RowFault
from editreward.data.importers.formats import Assembly, Built, Format, Row
from editreward.data.importers.images import ImageStore
from editreward.data.importers.reading import Source, read_rows
from editreward.data.importers.table_edits import TableOptions
from editreward.data.storage import MAX_SHARD_BYTES, GroupWriter
from editreward.files import check_same, write_json, write_lines
from editreward.groups.rows import GroupRow

WORK_FOLDER = ".import"
DONE_FOLDER = ".import-done"
REPORT_FILE = "import_report.json"
FAULTS_FILE = "import_faults.jsonl"

ROWS_PER_COMMIT = 2000
GROUPS_PER_SHARD = 2000
"""A shard ends here even if it is small: what a killed run has to do again at most."""

TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS rows (id INTEGER PRIMARY KEY, input INTEGER, number INTEGER, key TEXT, data TEXT);
CREATE INDEX IF NOT EXISTS rows_by_key ON rows (key, id);
CREATE TABLE IF NOT EXISTS other_keys (key TEXT, other TEXT, PRIMARY KEY (key, other));
CREATE TABLE IF NOT EXISTS faults (id INTEGER PRIMARY KEY, line TEXT);
CREATE TABLE IF NOT EXISTS fault_counts (severity TEXT, kind TEXT, number INTEGER, PRIMARY KEY (severity, kind));
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, number INTEGER);
CREATE TABLE IF NOT EXISTS ids (group_id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS items (id INTEGER PRIMARY KEY, line TEXT);
CREATE TABLE IF NOT EXISTS shards (number INTEGER PRIMARY KEY, keys INTEGER, file TEXT);
"""


@dataclass(frozen=True)
class ImportOptions:
    """How published data are read, and what is written.

    Attributes:
        images: folder that image paths are relative to. Default: the folder of the first input.
        columns: names that the format's fields have in the input, where they differ.
        strip: prefix to take off image paths.
        split: split to write. Default: "test" for benchmarks, "train" otherwise.
        dimensions: names of the dimensions, in the order in which the format numbers them. Default: the format's.
        on_fault: "stop": the first error ends the import. "list": what it concerns is left out and listed.
        origin, language: values for these columns. Default: the format's name, and "zh" or "en" by the script.
        decode: decode every image to be sure that it is whole, rather than read its header.
        overwrite: start again where the folder holds an interrupted import, and replace a dataset that it holds once
            the new one is complete.
        max_shard_bytes, groups_per_shard: a shard ends when it reaches either.
        scale: of a user's table, see `TableOptions`.

    Raises:
        ValueError: `on_fault` is another word, or the split's name is none that `datasets` accepts.
    """

    images: str | Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    strip: str = ""
    split: str | None = None
    dimensions: Sequence[str] = ()
    on_fault: str = "stop"
    origin: str | None = None
    language: str | None = None
    decode: bool = True
    overwrite: bool = False
    max_shard_bytes: int = MAX_SHARD_BYTES
    groups_per_shard: int = GROUPS_PER_SHARD
    scale: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_choice("on_fault", self.on_fault, ON_FAULT)
        if self.split is not None and not re.fullmatch(r"\w+(\.\w+)*", self.split):
            raise ValueError(f"The name of a split has letters, digits, '_' and '.' only, unlike {self.split!r}.")

    def fields_of(self, format: Format) -> dict[str, str]:
        """The columns of the input by the fields of the format that they are for.

        Raises:
            ValueError: `columns` names a field that there is not, or there are too many or too few dimensions.
        """
        counts = format.dimension_counts
        if counts and len(self.dimensions) not in counts:
            wanted = " or ".join(map(str, counts))
            raise ValueError(f"{format.name} has {wanted} dimensions, not {len(self.dimensions)} (--dimensions).")
        fields = {name: name for name in format.fields_for(self.dimensions)}
        for name in self.columns.keys() - fields.keys():
            raise ValueError(
                f"{format.name} has no field {name!r} that a column could be for, only: {', '.join(fields)}."
            )
        return fields | dict(self.columns)

    def image_root(self, inputs: Sequence[Source]) -> Path:
        """The folder that image paths are relative to.

        Raises:
            FileNotFoundError: there is no such folder.
        """
        if self.images is None:
            path = Path(inputs[0].name)
            return path.parent if path.is_file() else path if path.is_dir() else Path(".")
        if not Path(self.images).is_dir():
            raise FileNotFoundError(f"There is no image folder {self.images}.")
        return Path(self.images)

    def arguments(self, format: Format, inputs: Sequence[Source], root: Path) -> dict[str, Any]:
        """What must be the same when an interrupted import goes on, as JSON data."""
        return {
            "format": format.name,
            "input": [source.fingerprint() for source in inputs],
            "images": str(root.resolve()),
            "columns": dict(self.columns),
            "strip": self.strip,
            "split": self.split or format.split,
            "dimensions": list(self.dimensions),
            "origin": self.origin,
            "language": self.language,
            "decode": self.decode,
            "shards": [self.max_shard_bytes, self.groups_per_shard],
            **({"scale": list(self.scale)} if self.scale else {}),
        }


def import_dataset(
    format: Format,
    inputs: Sequence[Source],
    output: str | Path,
    options: ImportOptions | None = None,
    progress: bool | None = None,
) -> dict[str, Any]:
    """Turn a published dataset into groups.

    Args:
        format: one of `editreward.data.registry.FORMATS`.
        inputs: what to read.
        output: the dataset's folder. An interrupted import with the same arguments is continued.
        options: how.
        progress: show progress bars. Default: in a terminal.

    Returns:
        The report that is written to `import_report.json` as well.

    Raises:
        ImportFault (a ValueError): the input has an error, under `on_fault="stop"`.
        ValueError: the folder holds something else, no group is left, or `columns` names a field that there is not.
        FileNotFoundError: there is no such input.
    """
    output, options = Path(output), options or ImportOptions()
    options = replace(options, dimensions=options.dimensions or format.dimensions)
    fields = options.fields_of(format)
    inputs = [replace(source, under=format.under) for source in (*inputs, *_companions(format, inputs))]
    root = options.image_root(inputs)
    arguments = options.arguments(format, inputs, root)
    if not options.overwrite and (report := _completed(output, arguments)):
        return report
    is_new = not output.exists()
    replaced = _prepare(output, options.overwrite)
    work = output / WORK_FOLDER
    database = _open(work, arguments, replaced)
    try:
        if _meta(database, "finished") is None:
            _Run(format, inputs, fields, root, options, work, database, progress).run()
            database.execute("INSERT INTO meta VALUES ('finished', 'true')")
            database.commit()
        report = _finish(database, output, arguments["split"], format, arguments)
    except Exception:
        if _meta(database, "input-0") is None:  # no row was read: there is nothing to go on with
            database.close()
            shutil.rmtree(output if is_new else work)
        raise
    finally:
        database.close()
    work.replace(output / DONE_FOLDER)  # at once, so that a half removed folder is not taken for an interrupted import
    shutil.rmtree(output / DONE_FOLDER)
    return report


def _completed(output: Path, arguments: Mapping[str, object]) -> dict[str, Any] | None:
    """The report of an import that was killed when it had all but tidied up, if it is this one."""
    done, report = output / DONE_FOLDER, output / REPORT_FILE
    if not done.is_dir() or not report.is_file():
        return None
    found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    if found.get("arguments") != _digest(arguments):
        return None
    shutil.rmtree(done)
    return found


def _digest(arguments: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()


def _companions(format: Format, inputs: Sequence[Source]) -> list[Source]:
    """Files beside the inputs that belong to them."""
    if format.companion is None:
        return []
    files = [Path(source.name) for source in inputs if Path(source.name).is_file()]
    beside = dict.fromkeys(file.parent / format.companion for file in files)
    named = {file.resolve() for file in files}
    return [Source(str(file)) for file in beside if file.is_file() and file.resolve() not in named]


def _prepare(output: Path, overwrite: bool) -> list[str]:
    """Make the work folder; returns the files in `output` that are to be replaced."""
    shutil.rmtree(output / DONE_FOLDER, ignore_errors=True)
    replaced: list[Path] = []
    if overwrite:
        shutil.rmtree(output / WORK_FOLDER, ignore_errors=True)
        beside = (output / name for name in (BENCHMARK_FILE, REPORT_FILE, FAULTS_FILE))
        replaced = [*output.glob("data/*.parquet"), *beside]
    elif not (output / WORK_FOLDER).exists() and any(output.glob("data/*.parquet")):
        raise ValueError(f"{output} holds a dataset already. Choose another folder, or use --overwrite.")
    (output / WORK_FOLDER).mkdir(parents=True, exist_ok=True)
    return [str(file.relative_to(output)) for file in replaced]


def _open(work: Path, arguments: dict[str, object], replaced: list[str]) -> sqlite3.Connection:
    """The work database, once it is sure that it is this import's and that no other process has it."""
    database = sqlite3.connect(work / "work.sqlite", timeout=1)
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(TABLES)
        before = _meta(database, "arguments")
        if _meta(database, "input-0") is None:  # nothing is recorded that they apply to
            before = None
            database.execute("INSERT OR REPLACE INTO meta VALUES ('arguments', ?)", [json.dumps(arguments)])
            database.execute("INSERT OR IGNORE INTO meta VALUES ('replaced', ?)", [json.dumps(replaced)])
            database.commit()
    except sqlite3.OperationalError as error:
        database.close()
        raise ValueError(f"Cannot use {work}: {error}. Is another import writing there?") from error
    try:
        check_same(
            f"{work.parent} holds an interrupted import",
            arguments if before is None else json.loads(before),
            arguments,
            "Run it again as it was, or use --overwrite.",
        )
    except ValueError:
        database.close()
        raise
    return database


def _meta(database: sqlite3.Connection, name: str) -> str | None:
    row = database.execute("SELECT value FROM meta WHERE name = ?", [name]).fetchone()
    return None if row is None else str(row[0])


def _save_counts(database: sqlite3.Connection, counts: Mapping[str, int]) -> None:
    database.executemany(
        "INSERT INTO counts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET number = number + excluded.number",
        list(counts.items()),
    )


def _save_faults(database: sqlite3.Connection, faults: Faults) -> None:
    new = faults.take()
    lines = [[json.dumps(fault.to_dict(), ensure_ascii=False)] for fault in new]
    database.executemany("INSERT INTO faults (line) VALUES (?)", lines)
    database.executemany(
        "INSERT INTO fault_counts VALUES (?, ?, ?) ON CONFLICT (severity, kind) "
        "DO UPDATE SET number = number + excluded.number",
        [(*which, number) for which, number in Counter((fault.severity, fault.kind) for fault in new).items()],
    )


class _Run:
    """Reads the inputs into the work database, and writes the groups that their rows make; goes on where it was."""

    def __init__(
        self,
        format: Format,
        inputs: Sequence[Source],
        fields: Mapping[str, str],
        root: Path,
        options: ImportOptions,
        work: Path,
        database: sqlite3.Connection,
        progress: bool | None,
    ) -> None:
        self.format, self.inputs, self.fields, self.options = format, inputs, fields, options
        self.work, self.database, self.hidden = work, database, _hidden(progress)
        self.faults = Faults(options.on_fault)
        self.store = ImageStore(root, work / "images", options.strip, options.decode)
        self.assembly = Assembly(
            format.name, self.faults, self.store, tuple(options.dimensions), options.origin, options.language
        )
        self.labels = [source.label for source in inputs]
        if len(set(self.labels)) < len(self.labels):
            self.labels = [source.name for source in inputs]
        self.ids: set[str] = set()
        is_table = format.read is not None
        self.table = TableOptions(options.columns, options.dimensions, options.scale) if is_table else TableOptions()

    def run(self) -> None:
        """Read and write what is left to do."""
        for number in range(len(self.inputs)):
            self._read(number)
        self._write()

    def _read(self, number: int) -> None:
        """Put the rows of one input into the database, from the first on that is not there."""
        position = json.loads(_meta(self.database, f"input-{number}") or '{"start": 0, "state": null, "done": false}')
        if position["done"]:
            return
        label, start, since_commit = self.labels[number], position["start"], 0
        counts: Counter[str] = Counter()
        pending: list[tuple[int, int, str, str]] = []
        others: set[tuple[str, str]] = set()
        with tqdm(desc=f"Reading {label}", unit=" rows", initial=start, disable=self.hidden) as bar:
            for raw in read_rows(self.inputs[number], start, position["state"]):
                row = Row(label, raw.number, {})
                counts[f"rows of {label}"] += 1
                since_commit += 1
                try:
                    if raw.fault:
                        raise RowFault("broken-row", f"{raw.fault} (line {raw.line})" if raw.line else raw.fault)
                    row, read = self._fields(row, raw.values)
                    counts.update(f"ignored column {name}" for name in _ignored(raw.values, read))
                    key = _hashed(self.format.key(row))
                    if self.format.other_key is not None and (other := self.format.other_key(row)) is not None:
                        others.add((key, _hashed(other)))
                    pending.append((number, raw.number, key, json.dumps(row.values, ensure_ascii=False)))
                except RowFault as fault:
                    if fault.kind == "missing-column" and raw.number == 0 and raw.line is not None:
                        raise ValueError(f"{label}: {fault}.") from fault  # in no row, most likely
                    self.faults.error(row, fault.kind, str(fault), "the row is left out")
                bar.update()
                if since_commit == ROWS_PER_COMMIT:
                    position = {"start": raw.number + 1, "state": raw.state(), "done": False}
                    self._commit_rows(number, pending, others, counts, position)
                    since_commit = 0
            self._commit_rows(number, pending, others, counts, {"start": 0, "state": None, "done": True})

    def _fields(self, row: Row, values: Mapping[str, object]) -> tuple[Row, frozenset[str]]:
        """A row with its fields, images as references, and the columns that they are from."""
        if self.format.read is None:
            found = values
            columns, used = self.fields, frozenset(self.fields.values())
        else:
            found, used = self.format.read(values, self.table)
            columns = {name: name for name in found}
        return _refer(row, found, columns, self.format, self.store), used

    def _commit_rows(
        self,
        number: int,
        pending: list[tuple[int, int, str, str]],
        others: set[tuple[str, str]],
        counts: Counter[str],
        position: dict[str, object],
    ) -> None:
        """Record rows with their counts and faults, and where reading goes on; rows and counts start anew."""
        self.database.executemany("INSERT INTO rows (input, number, key, data) VALUES (?, ?, ?, ?)", pending)
        self.database.executemany("INSERT OR IGNORE INTO other_keys VALUES (?, ?)", sorted(others))
        _save_counts(self.database, counts)
        _save_faults(self.database, self.faults)
        meta = [f"input-{number}", json.dumps(position)]
        self.database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta)
        self.database.commit()
        pending.clear()
        others.clear()
        counts.clear()

    def _write(self) -> None:
        """Assemble the groups and write them, from the first on that is in no recorded shard."""
        find = self.database.execute
        alone = "key NOT IN (SELECT other FROM other_keys)"
        keys = [key for (key,) in find(f"SELECT key FROM rows WHERE {alone} GROUP BY key ORDER BY MIN(id)")]
        number, done = find("SELECT COUNT(*), COALESCE(SUM(keys), 0) FROM shards").fetchone()
        self.ids = {group_id for (group_id,) in find("SELECT group_id FROM ids")}
        shards = self.work / "shards"
        shutil.rmtree(shards / f"{number:05d}", ignore_errors=True)  # what a killed run left half written
        with tqdm(desc="Writing groups", unit=" groups", total=len(keys), initial=done, disable=self.hidden) as bar:
            while done < len(keys):
                used = self._write_shard(shards / f"{number:05d}", keys[done:], bar)
                done, number = done + used, number + 1

    def _write_shard(self, folder: Path, keys: Sequence[str], bar: tqdm) -> int:
        """Write one shard and record it. Returns how many of `keys` it used up."""
        counts: Counter[str] = Counter()
        new_ids: list[str] = []
        items: list[str] = []
        used = size = 0
        writer: GroupWriter | None = None
        options, database = self.options, self.database
        with ExitStack() as stack:
            while used < len(keys) and size < options.max_shard_bytes and len(new_ids) < options.groups_per_shard:
                for built in self.format.assemble(list(_rows_of(database, self.labels, keys[used])), self.assembly):
                    built = _with_unique_id(built, self.ids)
                    if writer is None:  # it can't write nothing, and a shard's keys may all be left out
                        writer = stack.enter_context(GroupWriter(folder, "part", options.dimensions, sys.maxsize))
                    writer.write(built.group)
                    self.ids.add(built.group["group_id"])
                    new_ids.append(built.group["group_id"])
                    items.extend(item.to_json() for item in built.items)
                    size += sum(len(image["bytes"]) for image in _images_of(built.group))
                    counts.update(groups=1, candidates=len(built.group["candidates"]), items=len(built.items))
                used += 1
                bar.update()
        database.executemany("INSERT INTO ids VALUES (?)", [[group_id] for group_id in new_ids])
        database.executemany("INSERT INTO items (line) VALUES (?)", [[line] for line in items])
        _save_counts(database, counts)
        _save_faults(database, self.faults)
        file = str(writer.shards[0].relative_to(folder.parent)) if writer is not None else None
        database.execute("INSERT INTO shards (keys, file) VALUES (?, ?)", [used, file])
        database.commit()
        return used


def _hashed(key: Sequence[object]) -> str:
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]


def _refer(
    row: Row, values: Mapping[str, object], fields: Mapping[str, str], format: Format, store: ImageStore
) -> Row:
    """The fields of the format, images as references. `fields` maps them to columns of the input."""
    if not isinstance(values, Mapping):
        raise RowFault("wrong-type", f"a row must be an object, not {type(values).__name__}")
    found = {name: values.get(column) for name, column in fields.items()}
    for name in format.image_fields:
        found[name] = store.refer(found[name])
    try:
        json.dumps(found)
    except TypeError as error:
        raise RowFault("wrong-type", f"a field holds what is neither text nor number: {error}") from error
    return replace(row, values={name: value for name, value in found.items() if value is not None})


def _ignored(values: Mapping[str, object], used: frozenset[str]) -> Iterator[str]:
    """Columns that hold something and are not read."""
    return (name for name, value in values.items() if value not in (None, "") and name not in used)


def _rows_of(database: sqlite3.Connection, labels: Sequence[str], key: str) -> Iterator[Row]:
    keys = "SELECT ? UNION SELECT other FROM other_keys WHERE key = ?"
    found = database.execute(f"SELECT input, number, data FROM rows WHERE key IN ({keys}) ORDER BY id", [key, key])
    for input, number, data in found:
        yield Row(labels[input], number, json.loads(data))


def _with_unique_id(built: Built, ids: Iterable[str]) -> Built:
    """Number the groups that would be called the same: a published folder or id may hold several."""
    wanted, count = built.group["group_id"], 1
    while built.group["group_id"] in ids:
        count += 1
        built.group["group_id"] = f"{wanted}-{count}"
    return Built(built.group, [replace(item, group_id=built.group["group_id"]) for item in built.items])


def _images_of(group: GroupRow) -> Iterator[GroupRow]:
    yield from group["source_images"]
    yield from (candidate["image"] for candidate in group["candidates"])


def _finish(
    database: sqlite3.Connection, output: Path, split: str, format: Format, arguments: Mapping[str, object]
) -> dict[str, Any]:
    """Give the shards their names and write what belongs beside them. May run again after it was interrupted."""
    counts = dict(database.execute("SELECT name, number FROM counts"))
    errors = dict(database.execute("SELECT kind, number FROM fault_counts WHERE severity = 'error' ORDER BY kind"))
    notes = dict(database.execute("SELECT kind, number FROM fault_counts WHERE severity = 'note' ORDER BY kind"))
    rows = _counts_of("rows of ", counts)
    if not counts.get("groups"):
        raise ValueError(
            f"No group is left of {sum(rows.values())} rows (errors: {errors or 'none'}). "
            "Look at the input and at --images, then start again with --overwrite."
        )
    files = [file for (file,) in database.execute("SELECT file FROM shards WHERE file IS NOT NULL ORDER BY number")]
    (output / "data").mkdir(exist_ok=True)
    written = {REPORT_FILE}
    for number, file in enumerate(files):
        shard, name = output / WORK_FOLDER / "shards" / file, f"data/{split}-{number:05d}-of-{len(files):05d}.parquet"
        written.add(name)
        if shard.exists():
            shard.replace(output / name)
    if format.is_benchmark:
        written.add(BENCHMARK_FILE)
        write_lines(output / BENCHMARK_FILE, _lines(database, "items"))
    if errors or notes:
        written.add(FAULTS_FILE)
        write_lines(output / FAULTS_FILE, _lines(database, "faults"))
    for name in json.loads(_meta(database, "replaced") or "[]"):
        if name not in written:
            (output / name).unlink(missing_ok=True)
    report = {
        "format": arguments["format"],
        "input": arguments["input"],
        "images": arguments["images"],
        "arguments": _digest(arguments),
        "split": split,
        "rows": rows,
        "groups": counts["groups"],
        "candidates": counts["candidates"],
        **({"items": counts["items"]} if format.is_benchmark else {}),
        "ignored_columns": _counts_of("ignored column ", counts),
        "errors": errors,
        "notes": notes,
    }
    write_json(output / REPORT_FILE, report)
    return report


def _counts_of(beginning: str, counts: Mapping[str, int]) -> dict[str, int]:
    """The counts whose names begin so, by the rest of their names."""
    return {name.removeprefix(beginning): number for name, number in counts.items() if name.startswith(beginning)}


def _lines(database: sqlite3.Connection, table: str) -> Iterator[str]:
    return (line for (line,) in database.execute(f"SELECT line FROM {table} ORDER BY id"))


def _hidden(progress: bool | None) -> bool | None:
    """The `disable` of tqdm, which hides bars outside of terminals by itself if it is None."""
    return None if progress is None else not progress
