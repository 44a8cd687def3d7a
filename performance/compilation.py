"""Scoring with `torch.compile` against eager: what compiling costs, and what it gains afterwards.

    python performance/compilation.py --json docs/performance/compilation.json
    python performance/compilation.py --parts language_model vision --json docs/performance/compilation-vision.json

Layers are compiled one by one, for changing shapes; those of the language model as `--torch_compile` does in training.
Inputs of several shapes are scored: groups with more and more edits, images of other sizes, two groups in a batch. The
first call of each shows the time to compile, and how many graphs that has taken. Then both ways take turns. By default
nothing compiled before is used; `--cache` keeps it for a second run, whose first calls show what is saved.

In float32, scores must agree with the eager ones within 1e-4. `calls to pay` is the number of calls of a shape after
which all compiling of the run is paid off.
"""

import editreward.scripts

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import transformers
from measuring import (
    CLOCKS,
    INSTRUCTION,
    PRESETS,
    build_model,
    build_processor,
    measure,
    random_images,
    ratio_of,
    synchronize,
    write_json,
)
from throughput import TOLERANCE, machine_name, progress
from torch._dynamo.utils import counters
from transformers import BatchFeature

from modeling_editreward import EditRewardModel

CANDIDATES = (1, 2, 3, 4, 8)
SIDES = (84, 168, 224)
PARTS: dict[str, Callable[[EditRewardModel], Sequence[torch.nn.Module]]] = {
    "language_model": lambda model: model.backbone.language_model.layers,
    "vision": lambda model: model.backbone.visual.blocks,
}
COMPILING_CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": lambda: sum(os.times()[:4])}
"""Seconds as in `CLOCKS`, CPU time with that of the compilers that were started."""


def make_inputs(
    model: EditRewardModel, layout: str, pixels: int, candidates: Sequence[int], sides: Sequence[int]
) -> dict[str, BatchFeature]:
    """Batches of several shapes, in the order in which they are first run."""
    processor = build_processor(model, layout, pixels)
    images = random_images(1 + max(*candidates, 2), pixels)
    inputs = {f"{count} edits": processor(images[0], images[1 : 1 + count], INSTRUCTION) for count in candidates}
    for side in sides:
        source, *edited = random_images(3, side**2)
        inputs[f"2 edits of {side} pixels a side"] = build_processor(model, layout, side**2)(
            source, edited, INSTRUCTION
        )
    inputs["2 groups of 2 edits"] = processor([images[0]] * 2, [images[1:3]] * 2, [INSTRUCTION] * 2)
    return inputs


def compare(
    eager: EditRewardModel,
    compiled: EditRewardModel,
    inputs: dict[str, BatchFeature],
    repetitions: int,
    clock: str,
) -> dict[str, Any]:
    """First calls, then calls in turns.

    Raises:
        ValueError: a compiled float32 model's scores differ by more than `TOLERANCE`.
    """
    device = eager.device

    def score(model: EditRewardModel, name: str) -> torch.Tensor:
        with torch.no_grad():
            return model(**inputs[name].to(device)).mean

    counters.clear()
    first = {}
    for name in inputs:
        expected = score(eager, name)
        synchronize(device)
        start = COMPILING_CLOCKS[clock]()
        found = score(compiled, name)
        synchronize(device)
        taken = COMPILING_CLOCKS[clock]() - start
        difference = (found - expected).abs().max().item()
        if eager.dtype == torch.float32 and not difference <= TOLERANCE:
            raise ValueError(f"Scores of {name}, compiled, are off by {difference:.2g}, more than {TOLERANCE}.")
        graphs = counters["stats"]["unique_graphs"]
        first[name] = {"first_seconds": taken, "graphs_so_far": graphs, "largest_difference": difference}
        progress(f"first call, {name}: {taken:.3g} s, {graphs} graphs")
    seconds: dict[str, dict[str, list[float]]] = {name: {"eager": [], "compiled": []} for name in inputs}
    for repetition in range(repetitions):
        for name, by_mode in seconds.items():
            for mode, model in (("eager", eager), ("compiled", compiled)):
                taken, _ = measure(lambda: score(model, name), device, clock)  # noqa: B023
                by_mode[mode].append(taken)
            progress(f"repetition {repetition + 1}/{repetitions}: {name}")
    compiling = sum(row["first_seconds"] - statistics.median(seconds[name]["compiled"]) for name, row in first.items())
    results = []
    for name, by_mode in seconds.items():
        gained = statistics.median(by_mode["eager"]) - statistics.median(by_mode["compiled"])
        results.append(
            {
                "input": name,
                **first[name],
                "seconds": by_mode,
                **ratio_of(by_mode["eager"], by_mode["compiled"]),
                "calls_to_pay": compiling / gained if gained > 0 else None,
            }
        )
    return {
        "compiling_seconds": compiling,
        "graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()),
        "results": results,
    }


def table(report: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| input | first call, s | graphs so far | eager, s | compiled, s | ratio (range) | calls to pay |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in report["results"]:
        low, high = row["ratio_range"]
        eager, compiled = (statistics.median(row["seconds"][mode]) for mode in ("eager", "compiled"))
        calls = "never" if row["calls_to_pay"] is None else f"{row['calls_to_pay']:,.0f}"
        lines.append(
            f"| {row['input']} | {row['first_seconds']:.3g} | {row['graphs_so_far']} | {eager:.3g} | {compiled:.3g} "
            f"| {row['ratio']:.2f} ({low:.2f} to {high:.2f}) | {calls} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu-tiny", help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: CUDA if there is one)")
    parser.add_argument("--layout", choices=("compact", "paper"), default="compact", help="(default: %(default)s)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=("language_model",), help="what to compile")
    parser.add_argument("--backend", default="inductor", help="of torch.compile (default: %(default)s)")
    parser.add_argument("--candidates", nargs="+", type=int, default=CANDIDATES, metavar="N", help="of one group")
    parser.add_argument("--sides", nargs="+", type=int, default=SIDES, metavar="PIXELS", help="of other images")
    parser.add_argument("--repetitions", type=int, default=15, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="time to measure (default: %(default)s)")
    parser.add_argument("--cache", metavar="FOLDER", help="of compiled code (default: a new one)")
    args = parser.parse_args(argv)

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    preset = PRESETS[args.preset]
    eager, compiled = (build_model(preset, device) for _ in range(2))
    for part in args.parts:
        for layer in PARTS[part](compiled):
            layer.compile(backend=args.backend, dynamic=True)
    inputs = make_inputs(eager, args.layout, preset.pixels, args.candidates, args.sides)
    with nullcontext(args.cache) if args.cache else tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        report = {
            "preset": args.preset,
            "layout": args.layout,
            "parts": args.parts,
            "backend": args.backend,
            "machine": machine_name(device),
            "clock": args.clock,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **compare(eager, compiled, inputs, args.repetitions, args.clock),
        }
    progress("")
    print(f"{args.preset}, {args.layout} layout, compiled: {', '.join(args.parts)}; on {report['machine']}.")
    print(f"{args.clock} time; compiling took {report['compiling_seconds']:.3g} s for {report['graphs']} graphs,")
    print(f"with {report['graph_breaks']} graph breaks.\n")
    print(table(report))
    write_json(args.json, report)
    return report


if __name__ == "__main__":
    main()
