"""What a benchmark is, and what its data are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editreward.benchmarks.measures import Measure
from editreward.benchmarks.protocols import Answers
from editreward.benchmarks.published import Published
from editreward.benchmarks.runner import Preparation
from editreward.data.benchmark_items import BenchmarkItem
from editreward.data.importers.formats import Format
from editreward.groups.rows import GroupRows
from editreward.scorers.processes import Processes


@dataclass
class BenchmarkData:
    """Where a benchmark's data came from, and what they hold.

    Attributes:
        name: folder, file or Hub id.
        rows, items: the groups as they are stored, and what is asked about them.
        revision: commit of a Hub dataset.
        imported: the report of the import, where there was one.
        tags: further subsets by group id.
        notes: what a reader of any result on them must know.
    """

    name: str
    rows: GroupRows
    items: list[BenchmarkItem]
    revision: str | None = None
    imported: dict[str, Any] | None = None
    tags: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DataRequest:
    """Which data are asked for; the fields are arguments of `load_benchmark`."""

    data: str | None
    images: str | None
    split: str | None
    revision: str | None
    cache: Path
    processes: Processes
    progress: bool | None


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        name, title: on the command line, and in reports. The name is that of its module.
        protocol: from answers to measures.
        format: how its published data are read; None for one that is made.
        published: numbers of the paper.
        hub: id of the dataset on the Hub, in the published format; None where the user has to say where the data are.
        ties: whether a judge of pairs is asked about ties, by item.
        both_orders: a judge of pairs is asked about every pair in both orders.
        preparation: what to do to images before they are judged.
        names: which of a scorer's dimensions answers a dimension of the benchmark, in order of preference.
        make: makes the data where they are not published; `DataRequest.data` then names what they are made by.
    """

    name: str
    title: str
    protocol: Callable[[Answers], list[Measure]]
    format: Format | None = None
    published: Published | None = None
    hub: str | None = None
    ties: Callable[[BenchmarkItem], bool] = lambda item: False
    both_orders: bool = False
    preparation: Preparation | None = None
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    make: Callable[[DataRequest], BenchmarkData] | None = None
