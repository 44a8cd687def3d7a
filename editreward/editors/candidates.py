"""Candidates that editors made, as groups to score: read from the store, without a copy as a dataset."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from editreward.data.table_groups import TableFault
from editreward.editors.editors import Editor
from editreward.editors.instructions import Instructions
from editreward.editors.store import CandidateStore, planned
from editreward.groups.rows import GroupRow


@dataclass
class CandidateGroups:
    """The candidates of a store, a group for each row; a `GroupSource`.

    A candidate has its `editor` and `seed`, and, of an editor that knows them (`SimulatedEditor`), its true `scores`.
    A row that cannot be read is a group without source; candidates that failed are not in theirs.

    Args:
        instructions: the rows.
        editors: whose candidates.
        store: where they are; it is read once, when the object is made.

    Attributes:
        name: tells these candidates from any others: another candidate, another name.
        failures: what failed, and why.
        repeated: how many candidates have the pixels of an earlier one of their group.
    """

    instructions: Instructions
    editors: Sequence[Editor]
    store: CandidateStore
    name: str = field(init=False)
    rows: int = 0
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    faults: Sequence[TableFault] = ()

    def __post_init__(self) -> None:
        records = self.store.read()
        self._seeds = {editor.name: editor.seeds for editor in self.editors}
        found = [records[key] for key in planned(self.instructions.ids, self._seeds) if key in records]
        self.failures = [record for record in found if record.error is not None]
        self.made = {record.key: record for record in found if record.error is None}
        pictures = {(record.group_id, record.pixels) for record in self.made.values()}
        self.repeated = len(self.made) - len(pictures)
        content = json.dumps([[*key, record.sha256, record.source] for key, record in self.made.items()])
        digest = hashlib.sha256(content.encode()).hexdigest()[:16]
        self.name = f"{len(self.made)} candidates of {', '.join(self._seeds)} ({digest})"

    def number(self) -> int:
        """How many rows there are."""
        return len(self.instructions.ids)

    def group_rows(self, start: int = 0, step: int = 1, limit: int | None = None) -> Iterator[tuple[int, GroupRow]]:
        """See `GroupSource`."""
        stop = self.number() if limit is None else min(limit, self.number())
        for number in range(start, stop, step):
            yield number, self._row(number)

    def _row(self, number: int) -> dict[str, object]:
        group_id = self.instructions.ids[number]
        try:
            row = self.instructions.read(number)
        except (OSError, ValueError):
            return {"group_id": group_id, "instruction": "", "source_images": [], "candidates": []}
        keys = [key for key in planned([group_id], self._seeds) if key in self.made]
        return {
            "group_id": group_id,
            "category": row.category,
            "instruction": row.instruction,
            "language": row.language,
            "source_images": [{"bytes": image, "path": None} for image in row.source_images],
            "candidates": [self._candidate(key) for key in keys],
        }

    def _candidate(self, key: tuple[str, str, int]) -> dict[str, object]:
        group_id, name, seed = key
        (editor,) = (one for one in self.editors if one.name == name)
        scores = getattr(editor, "scores", None)
        image = {"bytes": self.store.read_image(self.made[key]), "path": self.store.image_path(key).name}
        return {
            "image": image,
            "editor": name,
            "seed": seed,
            **({"scores": scores(group_id, seed)} if scores else {}),
        }

    def seconds(self) -> dict[str, list[float]]:
        """How long each image took, by editor, where that is known."""
        return seconds_of(self.store, self._seeds)


def seconds_of(store: CandidateStore, editors: Iterable[str] = ()) -> dict[str, list[float]]:
    """How long each image of a store took, by editor, where that is known; of all editors where none is named."""
    found: dict[str, list[float]] = {}
    for record in store.read().values():
        if record.error is None and record.seconds is not None and (not editors or record.editor in editors):
            found.setdefault(record.editor, []).append(record.seconds)
    return found
