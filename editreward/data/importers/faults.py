"""What is wrong with the input of an import: counted, listed, and by default a reason to stop."""

from dataclasses import asdict, dataclass
from typing import Literal, Protocol

ON_FAULT = ("stop", "list")
"""Values of `--on-fault`: an error ends the import, or what it concerns is left out and listed."""


class RowLike(Protocol):
    """A row of the input: its file and its number there, counted from 0."""

    @property
    def file(self) -> str: ...

    @property
    def number(self) -> int: ...


class RowFault(ValueError):
    """A row cannot be read. Raised by the functions that read fields; `kind` names the sort of fault."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class ImportFault(ValueError):
    """An error in the input, under `on_fault="stop"`."""


@dataclass(frozen=True)
class Fault:
    """One finding, a line of `import_faults.jsonl`.

    Args:
        severity: "error": something was left out, as `message` says. "note": nothing was.
        kind: a word by which findings are counted, such as "missing-image".
        file: name of the input.
        row: number of the row in it, counted from 0.
        message: the finding in words.
    """

    severity: Literal["error", "note"]
    kind: str
    file: str
    row: int
    message: str

    def to_dict(self) -> dict[str, object]:
        """The fields of the line."""
        return asdict(self)


class Faults:
    """The findings of a run. `take` hands over those that were not handed over before."""

    def __init__(self, on_fault: str = "stop") -> None:
        self.on_fault = on_fault
        self._new: list[Fault] = []

    def error(self, row: RowLike, kind: str, message: str, effect: str) -> None:
        """Report that part of the input cannot be used.

        Args:
            row: where it is.
            kind: a word by which findings are counted.
            message: what is wrong.
            effect: what is left out because of it, a clause such as "the row is left out".

        Raises:
            ImportFault: under `on_fault="stop"`.
        """
        where = f"row {row.number} of {row.file}"
        if self.on_fault == "stop":
            raise ImportFault(
                f"{where}: {message} ({kind}). Mend the input, or use --on-fault list to go on ({effect}, and listed)."
            )
        self._add(Fault("error", kind, row.file, row.number, f"{message}; {effect}"))

    def note(self, row: RowLike, kind: str, message: str) -> None:
        """Report something odd that loses nothing."""
        self._add(Fault("note", kind, row.file, row.number, message))

    def _add(self, fault: Fault) -> None:
        self._new.append(fault)

    def take(self) -> list[Fault]:
        """The findings since the last call."""
        new, self._new = self._new, []
        return new
