"""The one way to write files: a file or folder is there whole, or not at all, whenever a run is killed.

What is being written is a *part*, `.NAME.part` beside its target. It is flushed to disk, then renamed. A kill leaves
at most the part, which the next run overwrites. One run at a time writes a target; long ones hold its `lock`. What
grows line by line is a `Journal`: a kill costs at most the line that was being written, and the next run goes on
behind the last whole one.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from filelock import FileLock, Timeout

NO_UNICODE = "backslashreplace"
"""How texts are written that are no Unicode, as names of files and in archives may be: a name costs no file."""


def part_of(target: Path) -> Path:
    """Where a file or folder is while it is written."""
    return target.with_name(f".{target.name}.part")


def remove_parts(folder: Path, pattern: str = "*") -> None:
    """Remove what killed runs left of the targets in a folder.

    Args:
        folder: where the targets are.
        pattern: glob of the targets' paths in it, such as `*/*.png`.
    """
    for part in folder.glob(str(part_of(Path(pattern)))):
        _remove(part)


def flush(path: Path) -> None:
    """Have the system write a file to disk, or a folder with all that is in it, names too."""
    if path.is_file():
        _sync(path)
        return
    for folder, _, names in os.walk(path):
        for name in names:
            _sync(Path(folder, name))
        flush_names(Path(folder))


def flush_names(folder: Path) -> None:
    """Have the system write the names of a folder's files to disk, but not the files."""
    if os.name != "nt":  # which cannot open folders
        _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows syncs only what it may write
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(part: Path, target: Path, *, durable: bool = True) -> Path:
    """Give what was written its name, in one step.

    Args:
        part: a file, or a folder.
        target: its name: an older file of that name is replaced. A folder of that name must be empty.
        durable: survive a power failure, not only a kill. Costs a few milliseconds.

    Returns:
        The target.
    """
    if durable:
        flush(part)
    if part.is_dir() and target.is_dir():
        target.rmdir()  # not all systems rename a folder over an empty one
    part.replace(target)
    if durable:
        flush_names(target.parent)
    return target


def lock(target: str | os.PathLike[str], wait: float = 0) -> FileLock:
    """Keep other runs from writing a target, until `unlock`. A run that ends, however it ends, keeps it no longer.

    Args:
        target: a file or folder, which need not be there.
        wait: for others, in seconds.

    Raises:
        ValueError: another run is writing it.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(target.with_name(f".{target.name}.lock"), thread_local=False)
    try:
        held.acquire(timeout=wait)  # the system's lock, which dies with its process: a file left behind locks nothing
    except Timeout as error:
        raise ValueError(f"Another run is writing {target}. Wait for it, end it, or choose another name.") from error
    return held


def unlock(held: FileLock) -> None:
    """Let others write, and leave nothing."""
    if os.name != "nt":  # which removes no open file
        Path(held.lock_file).unlink(missing_ok=True)
    held.release()


@contextmanager
def alone_at(target: str | os.PathLike[str], wait: float = 0) -> Iterator[None]:
    """Hold the `lock` of a target meanwhile; arguments and errors as there."""
    held = lock(target, wait)
    try:
        yield
    finally:
        unlock(held)


@contextmanager
def atomic_file(target: str | os.PathLike[str], *, durable: bool = True) -> Iterator[Path]:
    """The path at which to write a file that becomes `target` in the end, or, after an error, is removed.

    Args:
        target: the file. Its folder must be there.
        durable: as for `put_in_place`.
    """
    target = Path(target)
    part = part_of(target)
    try:
        yield part
        put_in_place(part, target, durable=durable)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder that becomes `target` in the end, or, after an error, is removed.

    Args:
        target: must not exist, or be empty.

    Raises:
        ValueError: `target` is a file, or a folder that is not empty; or another run is writing it.
    """
    target = Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} is there and not empty: name another folder, or remove it.")
    part = part_of(target)
    with alone_at(target):
        _remove(part)
        part.mkdir(parents=True)
        try:
            yield part
            put_in_place(part, target)
        except BaseException:
            _remove(part)
            raise


def write_bytes(path: str | os.PathLike[str], content: bytes, *, durable: bool = True) -> None:
    """Write a file whole or not at all."""
    with atomic_file(path, durable=durable) as part:
        part.write_bytes(content)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text whole or not at all, in UTF-8, lines ending as they do in `text`."""
    write_bytes(path, text.encode(errors=NO_UNICODE))


def write_json(path: str | os.PathLike[str], value: object, indent: int | None = 2) -> None:
    """Write a value as JSON, whole or not at all.

    Raises:
        ValueError: the value has a NaN or an infinity, which JSON has not.
    """
    write_text(path, json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False) + "\n")


def write_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> int:
    """Write lines, given without their ends, one at a time, but all of them or none. Returns how many."""
    number = 0
    with atomic_file(path) as part, part.open("w", encoding="utf-8", errors=NO_UNICODE, newline="\n") as file:
        for line in lines:
            file.write(f"{line}\n")
            number += 1
    return number


def changed_settings(before: Mapping[str, object], now: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """What an unfinished run had otherwise: the value before and the value now, by name; None for what is not there.

    Args:
        before: the settings of the unfinished run, as JSON gave them back.
        now: the settings of this run.
    """
    now = json.loads(json.dumps(now))  # tuples become lists, as they do on the way through a file
    pairs = {name: (before.get(name), now.get(name)) for name in {**before, **now}}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def check_same(what: str, before: Mapping[str, object], now: Mapping[str, object], advice: str) -> None:
    """Be sure that a run may go on with what another left.

    Args:
        what: is there, as the beginning of a sentence.
        before, now: settings of the earlier run and of this one, as for `changed_settings`.
        advice: what to do otherwise.

    Raises:
        ValueError: they differ; what does is named, with both values.
    """
    changes = changed_settings(before, now)
    if changes:
        named = ", ".join(f"{name} {_short(was)} became {_short(is_now)}" for name, (was, is_now) in changes.items())
        raise ValueError(f"{what} with other settings: {named}. {advice}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:100]}…{text[-100:]}"


def whole_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file without their ends; not what a kill left behind the last end of a line."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield line[:-1]


class Journal:
    """JSON objects that are added to a file one at a time, a line each; a context manager, or `open` and `close` it.

    Args:
        path: the file. Its folder must be there.
        header: what decides the records, written as the first line: a run goes on only under the same. None: there
            is no such line.
        durable: as for `put_in_place`, for each line.
    """

    def __init__(self, path: Path, header: Mapping[str, object] | None = None, *, durable: bool = True) -> None:
        self.path, self.header, self.durable = path, header, durable
        self._file: IO[bytes] | None = None

    def resume(self) -> int:
        """Cut off half a line that a kill left. Returns how many records are there: 0 where there is no file.

        Raises:
            ValueError: the records are those of a run with another header.
        """
        if not self.path.exists():
            return 0
        number = end = 0
        for line in whole_lines(self.path):
            if number == 0 and self.header is not None:
                self._check_header(line)
            number, end = number + 1, end + len(line) + 1
        if end < self.path.stat().st_size:
            os.truncate(self.path, end)
        return max(0, number - (self.header is not None))

    def _check_header(self, line: bytes) -> None:
        check_same(
            f"{self.path} is of an unfinished run",
            json.loads(line),
            self.header or {},
            "Repeat that run, or delete the file.",
        )

    def records(self) -> Iterator[dict[str, Any]]:
        """The whole records that are there, without the header."""
        if self.path.exists():
            yield from map(json.loads, islice(whole_lines(self.path), int(self.header is not None), None))

    def keep(self, number: int) -> None:
        """Cut off all records behind the first `number`."""
        lines = islice(whole_lines(self.path), number + (self.header is not None))
        os.truncate(self.path, sum(len(line) + 1 for line in lines))

    def open(self) -> None:
        """Make ready to add records, behind those that are there."""
        self.resume()
        self._file = self.path.open("ab")
        if self.header is not None and self._file.tell() == 0:
            self.add(self.header)

    def add(self, record: Mapping[str, object]) -> None:
        """Add a record."""
        assert self._file is not None, "open the journal first"
        self._file.write(
            json.dumps(record, allow_nan=False).encode() + b"\n"
        )  # ASCII: names of files may be no Unicode
        self._file.flush()
        if self.durable:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """End adding."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
