"""Benchmarks: a file each, and what runs a scorer on them.

A benchmark's file holds its format, protocol, published numbers and the rest that is its own. To add one, write a file
here that sets `ABOUT` and `BENCHMARK`; `registry` finds it.
"""

from typing import TYPE_CHECKING, Any

from editreward.benchmarks.registry import BENCHMARKS

if TYPE_CHECKING:
    from editreward.benchmarks.benchmark import Benchmark as Benchmark
    from editreward.benchmarks.benchmark import BenchmarkData as BenchmarkData
    from editreward.benchmarks.loading import load_benchmark as load_benchmark
    from editreward.benchmarks.result import BenchmarkResult as BenchmarkResult
    from editreward.benchmarks.run import run_benchmark as run_benchmark

__all__ = ["BENCHMARKS", "Benchmark", "BenchmarkData", "BenchmarkResult", "load_benchmark", "run_benchmark"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: `editreward --help` reads the registry and needs none of it.
    if name in __all__:
        from editreward.benchmarks import benchmark, loading, result, run

        return next(getattr(module, name) for module in (benchmark, loading, result, run) if hasattr(module, name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
