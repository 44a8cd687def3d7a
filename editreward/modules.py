"""Objects that modules of a folder define, one a module, found by the modules' names and imported when asked for.

So a new benchmark or dataset format is one new file: no list names it, and `--help` names it without an import.
"""

import ast
import importlib
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class ModuleRegistry(Mapping[str, T], Generic[T]):
    """What modules call by one name, by the name of the module with "-" for "_": `genai_bench.py` is "genai-bench".

    Args:
        constant: the name, such as "FORMAT". A module belongs to the registry if it assigns it at its top level.
        packages: whose modules are looked at.
    """

    def __init__(self, constant: str, *packages: str) -> None:
        self.constant, self.packages = constant, packages

    @cached_property
    def _modules(self) -> dict[str, tuple[str, Path]]:
        """Full name and file of each module, by its key."""
        assigned = re.compile(rf"^{self.constant}\b[^=\n]*= ", re.MULTILINE)
        found = {}
        for package in self.packages:
            spec = find_spec(package)
            for folder in (spec.submodule_search_locations or ()) if spec else ():
                for file in sorted(Path(folder).glob("*.py")):
                    if assigned.search(file.read_text(encoding="utf-8")):
                        found[file.stem.replace("_", "-")] = f"{package}.{file.stem}", file
        return found

    def about(self, name: str) -> str:
        """The module's own `ABOUT`, one line of text, without importing the module.

        Raises:
            KeyError: there is no such module.
            ValueError: it has no such line.
        """
        _, file = self._modules[name]
        line = re.search(r'^ABOUT = (".*")$', file.read_text(encoding="utf-8"), re.MULTILINE)
        if line is None:
            raise ValueError(f"{file} has no line `ABOUT = ...` that says in a few words what it is.")
        return str(ast.literal_eval(line[1]))

    def __getitem__(self, name: str) -> T:
        module, _ = self._modules[name]
        found: T = getattr(importlib.import_module(module), self.constant)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)
