"""Modules that moved: their old names work until version 1.0, with a `DeprecationWarning` that names the new one."""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "annotation.agreement": "statistics.agreement",
    "annotation.protocol": "groups.protocol",
    "annotation.rating_files": "groups.rating_files",
    "annotation.ratings": "groups.ratings",
    "commands": "cli",
    "commands.annotate": "cli.annotate",
    "commands.annotate_report": "cli.annotate_report",
    "commands.bench": "cli.bench",
    "commands.bench_compare": "cli.bench_compare",
    "commands.bench_options": "cli.bench_options",
    "commands.bench_robustness": "cli.bench_robustness",
    "commands.completion": "cli.completion",
    "commands.data": "cli.data",
    "commands.data_bench": "cli.data_bench",
    "commands.data_check": "cli.data_check",
    "commands.data_import": "cli.data_import",
    "commands.data_options": "cli.data_options",
    "commands.data_publish": "cli.data_publish",
    "commands.data_stats": "cli.data_stats",
    "commands.environment": "cli.environment",
    "commands.generate": "cli.generate",
    "commands.merge": "cli.merge",
    "commands.push": "cli.push",
    "commands.score_dataset": "cli.score_dataset",
    "data.benchmark": "curation.benchmark",
    "data.card": "publishing.card",
    "data.check": "curation.check",
    "data.contamination": "curation.contamination",
    "data.flags": "curation.flags",
    "data.importers.aurora_bench": "benchmarks.aurora_bench",
    "data.importers.editreward_bench": "benchmarks.editreward_bench",
    "data.importers.editreward_compass": "benchmarks.editreward_compass",
    "data.importers.editscore_bench": "benchmarks.editscore_bench",
    "data.importers.genai_bench": "benchmarks.genai_bench",
    "data.importers.imagenhub": "benchmarks.imagenhub",
    "data.pairs": "groups.pairs",
    "data.publishing": "publishing.datasets",
    "data.stats": "publishing.stats",
    "data.stats_report": "publishing.stats_report",
    "data.tuples": "curation.tuples",
    "demo": "cli.demo_groups",
    "evaluation": "statistics",
    "evaluation.baselines": "scorers.baselines",
    "evaluation.benchmarks": "benchmarks",
    "evaluation.cache": "scorers.cache",
    "evaluation.calibration": "statistics.calibration",
    "evaluation.metrics": "statistics",
    "evaluation.metrics.checks": "statistics.checks",
    "evaluation.metrics.correlations": "statistics.correlations",
    "evaluation.metrics.floors": "statistics.floors",
    "evaluation.metrics.pairs": "statistics.accuracy",
    "evaluation.metrics.probabilities": "statistics.reliability",
    "evaluation.metrics.resampling": "statistics.resampling",
    "evaluation.processes": "scorers.processes",
    "evaluation.protocols": "benchmarks.protocols",
    "evaluation.published": "benchmarks.published",
    "evaluation.reports": "benchmarks.reports",
    "evaluation.reports.comparison": "benchmarks.reports.comparison",
    "evaluation.reports.findings": "benchmarks.reports.findings",
    "evaluation.reports.page": "reports.page",
    "evaluation.reports.plots": "reports.plots",
    "evaluation.reports.report": "benchmarks.reports.report",
    "evaluation.reports.saved": "benchmarks.reports.saved",
    "evaluation.robustness": "benchmarks.robustness",
    "evaluation.robustness.changes": "benchmarks.robustness.changes",
    "evaluation.robustness.data": "benchmarks.robustness.data",
    "evaluation.robustness.figure": "benchmarks.robustness.figure",
    "evaluation.robustness.measures": "benchmarks.robustness.measures",
    "evaluation.robustness.report": "benchmarks.robustness.report",
    "evaluation.robustness.run": "benchmarks.robustness.run",
    "evaluation.robustness.stresses": "benchmarks.robustness.stresses",
    "evaluation.runner": "benchmarks.runner",
    "evaluation.scorers": "groups",
    "evaluation.simulated": "benchmarks.simulated_test_set",
    "evaluation.simulated_benchmark": "benchmarks.simulated",
    "evaluation.simulated_protocol": "benchmarks.simulated",
    "expectations": "statistics.expectations",
    "figures": "reports.style",
    "generation": "editors",
    "generation.dataset": "editors.dataset",
    "generation.editors": "editors.editors",
    "generation.instructions": "editors.instructions",
    "generation.run": "editors.run",
    "generation.store": "editors.store",
    "hub": "publishing",
    "hub.models": "publishing.models",
    "hub.spaces": "publishing.spaces",
    "hub.uploads": "publishing.uploads",
    "scoring": "scorers.reward_model",
    "scoring.dataset": "scorers.dataset",
    "scoring.image_cache": "scorers.image_cache",
    "scoring.picture": "reports.picture",
    "scoring.probability": "statistics.preferences",
    "scoring.prompt_prefix": "scorers.prompt_prefix",
    "scoring.report": "reports.ranking",
    "scoring.scorer": "scorers.reward_model",
    "scoring.sharing": "serving.sharing",
    "scoring.watching": "scorers.watching",
}
"""New name by old name, both without `editreward.`."""

ALSO = {
    "data.card": ("resources",),
    "evaluation.baselines": ("scorers.perceptual",),
    "evaluation.benchmarks": ("benchmarks.run", "benchmarks.loading", "benchmarks.result", "data.sources"),
    "evaluation.scorers": ("scorers.fingerprints", "scorers.baselines"),
    "scoring.dataset": ("data.sources",),
    "scoring.probability": ("reports.text",),
    "scoring.scorer": ("scorers.loading",),
    "scoring": ("scorers.loading",),
}
"""Where other names of a module went that was taken apart, by its old name."""

RENAMED = {"EditScore": "CandidateScore", "BestEdit": "GroupScores"}
"""What is called otherwise now, by old name."""


class _Moved(ModuleType):
    """An old name of modules: what is read of it, or set on it, is theirs."""

    def __init__(self, name: str, places: Sequence[str]) -> None:
        super().__init__(name, f"Moved to `{places[0]}`.")
        self.__dict__["_places"] = places

    def __getattr__(self, name: str) -> Any:
        for place in self.__dict__["_places"]:
            found = getattr(importlib.import_module(place), RENAMED.get(name, name), None)
            if found is not None:
                return found
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __setattr__(self, name: str, value: object) -> None:
        for place in () if name.startswith("__") else self.__dict__["_places"]:
            module = importlib.import_module(place)
            if hasattr(module, RENAMED.get(name, name)):
                setattr(module, RENAMED.get(name, name), value)
                return
        super().__setattr__(name, value)


class MovedModules(MetaPathFinder, Loader):
    """Finds the modules of `MOVED` by their old names. A moved name reads from the module that it stands for."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != "editreward" or name not in MOVED:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = "editreward." + MOVED[spec.name.partition(".")[2]]
        warnings.warn(f"{spec.name} is {new} now; the old name goes away in 1.0.", DeprecationWarning, stacklevel=2)
        places = [new, *(f"editreward.{place}" for place in ALSO.get(spec.name.partition(".")[2], ()))]
        return _Moved(spec.name, places)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to run."""


def install() -> None:
    """Let `import` find moved modules."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
