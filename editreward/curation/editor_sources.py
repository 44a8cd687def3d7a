"""Results of several editors, each in a place of its own, as one source of groups."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from editreward.data.edit_sources import GroupSource
from editreward.data.table_groups import TableFault
from editreward.groups.rows import GroupRow


@dataclass
class SideBySide:
    """The groups of one source after those of another; what is in a source is an edit of the editor of its name.

    Groups are not joined here: who compares editors finds the same source and instruction in any of them.

    Args:
        sources: by name of the editor.
    """

    sources: Mapping[str, GroupSource]
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "; ".join(f"{name}: {source.name}" for name, source in self.sources.items())

    @property
    def rows(self) -> int:
        return sum(source.rows for source in self.sources.values())

    @property
    def faults(self) -> Sequence[TableFault]:
        return [
            replace(fault, place=f"{name}, {fault.place}")
            for name, source in self.sources.items()
            for fault in source.faults
        ]

    def number(self) -> int | None:
        """How many groups there are in all; None where nobody knows before they are read."""
        numbers = [source.number() for source in self.sources.values()]
        return None if None in numbers else sum(number for number in numbers if number is not None)

    def group_rows(self, start: int = 0, step: int = 1, limit: int | None = None) -> Iterator[tuple[int, GroupRow]]:
        """See `GroupSource`."""
        for number, row in enumerate(self._all()):
            if limit is not None and number >= limit:
                return
            if number >= start and (number - start) % step == 0:
                yield number, row

    def _all(self) -> Iterator[GroupRow]:
        for name, source in self.sources.items():
            for _, row in source.group_rows():
                candidates = [{**(candidate or {}), "editor": name} for candidate in row["candidates"] or ()]
                yield {**row, "candidates": candidates}
