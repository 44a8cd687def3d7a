"""Time and memory of scoring against the number of edits, the size of images, groups per batch and processes.

    python performance/scaling.py --json docs/performance/scaling.json --plot docs/performance/scaling.png
    python performance/scaling.py --measure dataset processes --json docs/performance/dataset.json

The first three series are of one model, in repetitions that take turns. `dataset` streams simulated groups through
`editreward score --dataset` in fresh processes, for several numbers of groups: memory must not grow with them, and the
time of 100,000 is extrapolated from that of a group. `processes` runs the same under `accelerate launch`.
"""

import editreward.scripts

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from measuring import (
    CLOCKS,
    INSTRUCTION,
    PRESETS,
    PeakMemory,
    build_model,
    build_processor,
    measure,
    random_images,
    write_json,
)
from throughput import machine_name, progress

CANDIDATES = (1, 2, 4, 8, 16, 32, 64)
SIDES = (112, 168, 224, 336, 448)
GROUPS = (1, 2, 4, 8, 16)
GROUP_SIZE = 4
DATASET_ROWS = (100, 400)
TARGET_ROWS = 100_000
SERIES = ("candidates", "pixels", "groups", "dataset", "processes")


def measure_series(
    points: Sequence[Any],
    run: dict[str, Callable[[Any], Any]],
    device: torch.device,
    repetitions: int,
    clock: str,
) -> dict[str, list[dict[str, Any]]]:
    """Median seconds and peak memory of each function at each point, measured in turns."""
    seconds: dict[tuple[str, Any], list[float]] = {}
    memory: dict[tuple[str, Any], int | None] = {}
    for repetition in range(repetitions):
        for point in points:
            for name, function in run.items():
                with PeakMemory(device) as most:
                    taken, _ = measure(lambda: function(point), device, clock)  # noqa: B023
                seconds.setdefault((name, point), []).append(taken)
                memory[name, point] = max(memory.get((name, point)) or 0, most.bytes or 0) or None
                progress(f"repetition {repetition + 1}/{repetitions}: {name} {point} {taken:.3g} s")
    return {
        name: [
            {"x": x, "seconds": statistics.median(seconds[name, x]), "peak_memory_bytes": memory[name, x]}
            for x in points
        ]
        for name in run
    }


def by_layout(score: Callable[[Any], None], inputs: dict[tuple[str, int], Any]) -> dict[str, Callable[[int], None]]:
    """For each layout the function that scores its inputs at a point."""
    layouts = dict.fromkeys(layout for layout, _ in inputs)
    return {layout: partial(lambda layout, point: score(inputs[layout, point]), layout) for layout in layouts}


def line_through(points: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Least-squares line of seconds, weighted so that relative errors count: intercept, slope and largest error."""
    x, y = np.array([point["x"] for point in points], dtype=float), np.array([point["seconds"] for point in points])
    slope, intercept = np.polyfit(x, y, 1, w=1 / y)
    errors = np.abs(intercept + slope * x - y) / y
    return {"intercept": float(intercept), "slope": float(slope), "largest_relative_error": float(errors.max())}


def model_series(args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The series of one model in one process."""
    preset = PRESETS[args.preset]
    model = build_model(preset, device)
    layouts = ("compact", "paper")
    images = random_images(1 + max(args.candidates), preset.pixels)

    def score(batch: Any) -> None:
        with torch.no_grad():
            model(**batch.to(device))

    series: dict[str, Any] = {}
    if "candidates" in args.measure:
        processors = {layout: build_processor(model, layout, preset.pixels) for layout in layouts}
        inputs = {
            (layout, count): processors[layout](images[0], images[1 : 1 + count], INSTRUCTION)
            for layout in layouts
            for count in args.candidates
        }
        series["candidates"] = measure_series(
            args.candidates, by_layout(score, inputs), device, args.repetitions, args.clock
        )
    if "pixels" in args.measure:
        sized = {}
        for side in args.sides:
            sources = random_images(1 + GROUP_SIZE, side**2)
            for layout in layouts:
                processor = build_processor(model, layout, side**2)
                sized[layout, side] = processor(sources[0], sources[1:], INSTRUCTION)
        series["pixels"] = measure_series(args.sides, by_layout(score, sized), device, args.repetitions, args.clock)
        for layout in layouts:
            for point in series["pixels"][layout]:
                point["tokens"] = int(sized[layout, point["x"]]["input_ids"].shape[1])
    if "groups" in args.measure:
        processor = build_processor(model, "compact", preset.pixels)
        group = processor.pack(images[0], images[1 : 1 + GROUP_SIZE], INSTRUCTION)
        batches = {("compact", count): processor.collate([group] * count) for count in args.groups}
        series["groups"] = measure_series(args.groups, by_layout(score, batches), device, args.repetitions, args.clock)
    for name in ("candidates", "groups"):
        if name in series:
            series[f"{name}_lines"] = {key: line_through(points) for key, points in series[name].items()}
    return series


def score_dataset_command(rows: int, output: Path) -> list[str]:
    """The words behind `python -m` that score simulated groups with the bundled model."""
    words = ["editreward.cli", "score", "--dataset", "simulated", "--limit", str(rows)]
    return [*words, "--output", str(output), "--device", "cpu"]


def run_process(command: Sequence[str]) -> dict[str, float]:
    """Wall and CPU seconds of a command with its children, and the most memory that one of them had, in bytes."""
    watch = (
        "import json, resource, subprocess, sys; code = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode; "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(json.dumps([code, used.ru_utime + used.ru_stime, used.ru_maxrss]))"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", watch, *command], capture_output=True, text=True, check=True)
    wall = time.perf_counter() - start
    code, cpu, most = json.loads(done.stdout)
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with {code}: {done.stderr[-2000:]}")
    return {"wall_seconds": wall, "cpu_seconds": cpu, "peak_memory_bytes": most * 1024}


def dataset_series(rows: Sequence[int], clock: str) -> dict[str, Any]:
    """Whole runs of `editreward score --dataset` over simulated groups of 7."""
    with tempfile.TemporaryDirectory() as folder:
        points = []
        for count in rows:
            command = [sys.executable, "-m", *score_dataset_command(count, Path(folder) / f"{count}.jsonl")]
            points.append({"x": count, **run_process(command)})
            progress(f"{count} groups: {points[-1]['cpu_seconds']:.3g} CPU seconds")
    first, last = points[0], points[-1]
    field = f"{clock}_seconds"
    each = (last[field] - first[field]) / (last["x"] - first["x"])
    return {
        "points": points,
        "seconds_per_group": each,
        "memory_growth_bytes": last["peak_memory_bytes"] - first["peak_memory_bytes"],
        "extrapolated_hours": {str(TARGET_ROWS): (first[field] + each * (TARGET_ROWS - first["x"])) / 3600},
    }


def process_series(rows: int, counts: Sequence[int]) -> list[dict[str, Any]]:
    """The same run by several processes of `accelerate launch`; more than there are cores are no faster."""
    points = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(count)]
            kind = "--multi_gpu" if count > 1 else "--cpu"  # the former is for processes of any kind
            command = [*launch, kind, "-m", *score_dataset_command(rows, Path(folder) / "scores.jsonl")]
            points.append({"x": count, "rows": rows, "cores": len(os.sched_getaffinity(0)), **run_process(command)})
            progress(f"{count} processes: {points[-1]['wall_seconds']:.3g} s")
    return points


def draw(report: dict[str, Any], file: Path) -> None:
    """Time and memory of each series of `model_series`, each in a panel."""
    from matplotlib.figure import Figure

    names = {"candidates": "edits of one group", "pixels": "side of the images, pixels", "groups": "groups in a batch"}
    shown = [name for name in names if name in report]
    figure = Figure(figsize=(4 * len(shown), 5.6), layout="constrained")
    axes = figure.subplots(2, len(shown), squeeze=False, sharex="col")
    for column, name in enumerate(shown):
        for style, (layout, points) in zip(("o-", "s--"), report[name].items(), strict=False):
            x = [point["x"] for point in points]
            axes[0, column].plot(x, [point["seconds"] for point in points], style, label=layout)
            memory = [(point["peak_memory_bytes"] or 0) / 2**20 for point in points]
            axes[1, column].plot(x, memory, style, label=layout)
        axes[1, column].set_xlabel(names[name])
        for row, label in enumerate((f"seconds ({report['clock']})", "MiB above the weights")):
            axes[row, column].set_ylabel(label)
            axes[row, column].set_ylim(bottom=0)
            axes[row, column].grid(alpha=0.3)
            axes[row, column].legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=100)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs="+", choices=SERIES, default=SERIES[:3], help="(default: the first three)")
    parser.add_argument("--preset", choices=PRESETS, default="cpu-tiny", help="(default: %(default)s)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: CUDA if there is one)")
    parser.add_argument("--candidates", nargs="+", type=int, default=CANDIDATES, metavar="N", help="of one group")
    parser.add_argument("--sides", nargs="+", type=int, default=SIDES, metavar="PIXELS", help="of square images")
    parser.add_argument("--groups", nargs="+", type=int, default=GROUPS, metavar="N", help="per batch")
    parser.add_argument("--rows", nargs="+", type=int, default=DATASET_ROWS, metavar="N", help="of `dataset`")
    parser.add_argument("--processes", nargs="+", type=int, default=(1, 2), metavar="N", help="of `processes`")
    parser.add_argument("--repetitions", type=int, default=3, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="time to measure (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the first three series")
    args = parser.parse_args(argv)

    transformers.logging.set_verbosity_error()
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    report: dict[str, Any] = {
        "preset": args.preset,
        "machine": machine_name(device),
        "clock": args.clock,
        "torch": torch.__version__,
        "group_size": GROUP_SIZE,
    }
    report |= model_series(args, device)
    if "dataset" in args.measure:
        report["dataset"] = dataset_series(args.rows, args.clock)
    if "processes" in args.measure:
        report["processes"] = process_series(args.rows[0], args.processes)
    progress("")
    print(json.dumps(report, indent=1))
    write_json(args.json, report)
    if args.plot:
        draw(report, args.plot)
    return report


if __name__ == "__main__":
    main()
