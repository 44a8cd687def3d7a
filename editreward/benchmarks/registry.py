"""The benchmarks by name."""

from typing import TYPE_CHECKING

from editreward.modules import ModuleRegistry

if TYPE_CHECKING:
    from editreward.benchmarks.benchmark import Benchmark

BENCHMARKS: "ModuleRegistry[Benchmark]" = ModuleRegistry("BENCHMARK", "editreward.benchmarks")
"""Every module of this folder that sets `BENCHMARK`, by its name: `genai_bench.py` is "genai-bench"."""
