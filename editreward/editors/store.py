"""Candidates on disk: an image file and a manifest line each, such that a kill at any moment loses none of them.

    candidates/settings.json            settings of the editors
    candidates/manifest-00000.jsonl     what the process 0 made and what failed, a line each; one file per process
    candidates/EDITOR/GROUP-SEED.png    the images

An image appears under its name in one step, complete; its manifest line follows. Where a kill came between the two,
the next run finds the image and adds the line.
"""

import hashlib
import io
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

from filelock import FileLock, Timeout
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from editreward import files
from editreward.data.images import pixel_digest, read_image

MADE_FOR = "editreward-source"
"""Text field of an image file: `SourceRow.digest` of the row that it was made for."""

Key: TypeAlias = tuple[str, str, int]
"""Group, editor and seed."""


@dataclass(frozen=True)
class Record:
    """A manifest line: a candidate that was made, or one that failed.

    Args:
        group_id, editor, seed: which candidate.
        source: `SourceRow.digest` of the row that it is for; None where the row could not be read.
        sha256: SHA-256 of the image file; None where it failed.
        pixels: `pixel_digest` of the image, in hexadecimal; None where it failed.
        error: why it failed; None where it was made.
        seconds: how long it took; None where that is not known.
        time: when, in seconds since the epoch, UTC.
    """

    group_id: str
    editor: str
    seed: int
    source: str | None
    sha256: str | None
    pixels: str | None
    error: str | None
    seconds: float | None
    time: float

    @property
    def key(self) -> Key:
        """Which candidate."""
        return self.group_id, self.editor, self.seed


class CandidateStore:
    """The candidates of an output folder. Reading needs nothing; `open` before writing.

    Args:
        folder: the output folder.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder) / "candidates"
        self._lock: FileLock | None = None
        self._manifest: files.Journal | None = None

    def image_path(self, key: Key) -> Path:
        """Where the image of a candidate is or will be. Ids that make no file name, or differ in case only, do too."""
        group_id, editor, seed = key
        return self.folder / editor / f"{file_stem(group_id)}-{seed}.png"

    def read(self) -> dict[Key, Record]:
        """The last word on every candidate: made, if it ever was and its file is there; else failed.

        Raises:
            ValueError: a line of a manifest is damaged. (A last line that was cut off by a kill does not count.)
        """
        records: dict[Key, Record] = {}
        for manifest in sorted(self.folder.glob("manifest-*.jsonl")):
            for number, line in enumerate(files.whole_lines(manifest), start=1):
                try:
                    record = Record(**json.loads(line))
                except (TypeError, ValueError) as error:
                    raise ValueError(
                        f"{manifest}, line {number} is damaged: {error}. Remove the line; the image of its "
                        "candidate, if it is there, will be found again."
                    ) from error
                old = records.get(record.key)
                if old is None or (record.error is None, record.time) > (old.error is None, old.time):
                    records[record.key] = record
        # A failure whose image is there was made up for in a run that was killed before it wrote the line.
        return {
            key: record for key, record in records.items() if self.image_path(key).is_file() == (record.error is None)
        }

    def prepare(self, settings: Mapping[str, Mapping[str, object]]) -> None:
        """Check, in the main process, that a run can start here, and note the settings of its editors.

        Args:
            settings: by name of the editor, what decides its images.

        Raises:
            ValueError: another run is writing here, or the folder has candidates of an editor with other settings.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("manifest-*.lock"):
            _locked(path).release()
        files.remove_parts(self.folder, "*/*")
        file = self.folder / "settings.json"
        known: dict[str, dict[str, object]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        for name, new in settings.items():
            if any((self.folder / name).glob("*.png")):
                files.check_same(
                    f"The candidates of the editor {name} in {self.folder} were made",
                    known.get(name, new),
                    new,
                    f"Give the editor another name, choose another output folder, or delete {self.folder / name} and "
                    f'"{name}" in {file}.',
                )
        files.write_json(file, {**known, **settings})

    def open(self, process: int) -> None:
        """Begin to write as the process with a number.

        Raises:
            ValueError: another run is writing here.
        """
        name = f"manifest-{process:05d}"
        self._lock = _locked(self.folder / f"{name}.lock")
        self._manifest = files.Journal(self.folder / f"{name}.jsonl")
        self._manifest.open()

    def close(self) -> None:
        """End writing."""
        if self._manifest is not None:
            self._manifest.close()
            self._manifest = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def adopt(self, key: Key, source: str) -> bool:
        """Write the line of a candidate whose image is there without one. Returns whether it is, for this source."""
        try:
            content = self.image_path(key).read_bytes()
            image = read_image({"bytes": content, "path": None})
        except (FileNotFoundError, ValueError):
            return False
        with Image.open(io.BytesIO(content)) as opened:
            if opened.info.get(MADE_FOR) != source:  # the row was another one
                return False
        pixels = pixel_digest(image)
        self._add(key, source, sha256=_digest(content), pixels=pixels.hex())
        return True

    def add_image(self, key: Key, source: str, image: Image.Image, seconds: float) -> None:
        """Write a candidate: its image, in one step, then its line. Arguments as for `Record`."""
        path = self.image_path(key)
        path.parent.mkdir(exist_ok=True)
        buffer = io.BytesIO()
        about = PngInfo()
        about.add_text(MADE_FOR, source)
        image.save(buffer, "PNG", pnginfo=about)
        files.write_bytes(path, buffer.getvalue())
        self._add(key, source, _digest(buffer.getvalue()), pixel_digest(image).hex(), seconds=seconds)

    def add_failure(self, key: Key, source: str | None, error: str, seconds: float | None = None) -> None:
        """Write the line of a candidate that failed; arguments as for `Record`."""
        self._add(key, source, error=error, seconds=seconds)

    def _add(
        self,
        key: Key,
        source: str | None,
        sha256: str | None = None,
        pixels: str | None = None,
        error: str | None = None,
        seconds: float | None = None,
    ) -> None:
        assert self._manifest is not None, "open the store first"
        seconds = None if seconds is None else round(seconds, 3)
        record = Record(*key, source, sha256, pixels, error, seconds, round(time.time(), 3))
        self._manifest.add(asdict(record))

    def read_image(self, record: Record) -> bytes:
        """The image file of a candidate that was made.

        Raises:
            ValueError: it is not the file that was written.
        """
        path = self.image_path(record.key)
        content = path.read_bytes()
        if _digest(content) != record.sha256:
            raise ValueError(f"{path} has changed since it was made. Delete it and run the command again.")
        return content


def file_stem(group_id: str) -> str:
    """A part of a file's name that no other id has: readable, and the beginning of a hash."""
    readable = re.sub(r"[^A-Za-z0-9._-]+", "_", group_id).strip("._")[:60]
    return f"{readable}-{hashlib.sha256(group_id.encode()).hexdigest()[:12]}"


def planned(ids: Sequence[str], editors: Mapping[str, Sequence[int]]) -> list[Key]:
    """All candidates of a run, group by group, in the order of the editors and seeds."""
    return [(group_id, editor, seed) for group_id in ids for editor, seeds in editors.items() for seed in seeds]


def _locked(path: Path) -> FileLock:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"Another run is writing to {path.parent}. Wait for it, or end it.") from error
    return lock


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
