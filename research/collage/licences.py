"""Who made a photograph of GCompris, and under which licence, as the README beside it says."""

import re
from dataclasses import dataclass
from pathlib import Path

FIELD = re.compile(r"(Copyright|License|Licence|Source|Files?|Comments?)\s*:\s*(.*)", re.IGNORECASE)
FREE = re.compile(r"public domain|CC0|PD\b", re.IGNORECASE)


@dataclass(frozen=True)
class Licence:
    """Author, source and licence of a file."""

    author: str
    source: str
    licence: str

    @property
    def is_free(self) -> bool:
        """Whether anyone may pass it on without conditions."""
        return FREE.match(self.licence) is not None


def read_licences(readme: Path) -> dict[str, Licence]:
    """File names, without folders, to what a README says of them.

    It holds paragraphs of "Copyright: ...", "License: ...", "Source: ..." and "Files:" with one or more names, in any
    order after the first.
    """
    found: dict[str, Licence] = {}
    for paragraph in re.split(r"\n\s*\n", readme.read_text(encoding="utf-8", errors="replace")):
        said: dict[str, str] = {}
        files: list[str] = []
        field = ""
        for line in paragraph.splitlines():
            if match := FIELD.match(line.strip()):
                field, value = match[1].lower().rstrip("s").replace("licence", "license"), match[2]
                said[field] = value
            else:
                value = line
            if field == "file":
                files += value.split()
        licence = Licence(said.get("copyright", ""), said.get("source", ""), said.get("license", ""))
        found |= {Path(file).name: licence for file in files}
    return found
