"""The published formats by name."""

from typing import TYPE_CHECKING

from editreward.modules import ModuleRegistry

if TYPE_CHECKING:
    from editreward.data.importers.formats import Format

PACKAGES = ("editreward.data.importers", "editreward.benchmarks")
"""Folders whose modules may set `FORMAT`. A benchmark's format is in the benchmark's own file, which is above this
room; it is found by its name, and nothing here imports it before somebody asks for it."""

FORMATS: "ModuleRegistry[Format]" = ModuleRegistry("FORMAT", *PACKAGES)
"""By the value of `--format`."""
