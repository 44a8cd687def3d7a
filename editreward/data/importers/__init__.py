"""Published datasets and benchmarks as edit groups, all read by the same layer.

A format is a `Format` that a module sets as `FORMAT`: one of this folder for a dataset, the benchmark's own file
(`editreward.benchmarks`) for a benchmark. `editreward.data.registry` finds them.
"""

from editreward.data.importers.faults import ON_FAULT, Fault, ImportFault
from editreward.data.importers.formats import Format
from editreward.data.importers.reading import Source
from editreward.data.importers.running import ImportOptions, import_dataset
from editreward.data.registry import FORMATS

__all__ = ["FORMATS", "ON_FAULT", "Fault", "Format", "ImportFault", "ImportOptions", "Source", "import_dataset"]
