"""Published datasets and benchmarks as edit groups: a module per format, all read by the same layer."""

from editreward.data.importers import (
    aurora_bench,
    editreward_bench,
    editreward_compass,
    editreward_data,
    editscore_bench,
    genai_bench,
    imagenhub,
)
from editreward.data.importers.faults import ON_FAULT, Fault, ImportFault
from editreward.data.importers.formats import Format
from editreward.data.importers.reading import Source
from editreward.data.importers.running import import_dataset

FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT
    for module in (
        editreward_data,
        editreward_bench,
        editscore_bench,
        editreward_compass,
        genai_bench,
        aurora_bench,
        imagenhub,
    )
}
"""By the value of `--format`."""

__all__ = ["FORMATS", "ON_FAULT", "Fault", "Format", "ImportFault", "Source", "import_dataset"]
