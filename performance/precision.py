"""What narrower arithmetic does to rankings and to speed: bfloat16 and int8 weights against float32, in one run.

    python performance/precision.py --json docs/performance/precision.json
    python performance/precision.py --preset cpu-small --json docs/performance/precision-cpu-small.json

- `bfloat16`: the backbone's weights and activations, as by `from_pretrained(..., dtype=torch.bfloat16)`.
- `autocast`: float32 weights, matrix products in bfloat16, by `torch.autocast`.
- `int8`: the weights of the backbone's linear layers in int8, with a float32 scale for each row, which torchao
  converts back in each call; all else in float32. As by `TorchAoConfig(Int8WeightOnlyConfig())`.
- `int8-bfloat16`: the same of the bfloat16 model.

Heads are in float32 always. The bundled model (`cpu-tiny`) scores the held-out simulated groups of
configs/simulated_test_set.json in each precision, in turns. The weights of other presets are random, so that their
rankings mean nothing, and time and memory alone are measured. Ratios are float32's time / the precision's, of the
model's calls, without the preparation of images.
"""

import editreward.scripts

import argparse
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from measuring import (
    CLOCKS,
    INSTRUCTION,
    PRESETS,
    Preset,
    build_model,
    build_processor,
    matrix_multiply_peak,
    measure,
    random_images,
    ratio_of,
    write_json,
)
from throughput import machine_name, progress
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import BatchFeature

from editreward.benchmarks.simulated_test_set import OVERALL, Judgements, TestSet
from editreward.scorers.loading import bundled_model
from editreward.simulation import SimulatedGroup
from editreward.statistics import correlation, mean_of_groups, pair_accuracy, share_of_rows
from modeling_editreward import EditRewardModel, EditRewardOutput
from processing_editreward import EditRewardProcessor

LAYOUTS = ("compact", "paper")
GROUPS_PER_ROUND = 40
GROUPS_PER_BATCH = 8
MARGIN = 0.05  # of rewards: pairs closer than this are hardly told apart in any precision


@dataclass(frozen=True)
class Precision:
    """How a model computes.

    Attributes:
        dtype: of the backbone's weights.
        autocast: run matrix products in bfloat16.
        int8: quantize the weights of the backbone's linear layers.
    """

    dtype: torch.dtype = torch.float32
    autocast: bool = False
    int8: bool = False

    def build(self, preset: Preset, device: torch.device) -> EditRewardModel:
        """A preset's model in this precision."""
        model = build_model(preset, device, self.dtype)
        if self.int8:
            from torchao.quantization import Int8WeightOnlyConfig, quantize_

            quantize_(model.backbone, Int8WeightOnlyConfig())
        return model

    def run(self, model: EditRewardModel, batch: BatchFeature) -> EditRewardOutput:
        """The scores of a batch."""
        device = model.device.type
        with torch.no_grad(), torch.autocast(device, torch.bfloat16) if self.autocast else nullcontext():
            return model(**batch)


PRECISIONS = {
    "float32": Precision(),
    "bfloat16": Precision(torch.bfloat16),
    "autocast": Precision(autocast=True),
    "int8": Precision(int8=True),
    "int8-bfloat16": Precision(torch.bfloat16, int8=True),
}


def weight_bytes(model: torch.nn.Module) -> int:
    """Memory of weights and buffers; of a quantized weight that of the tensors which it is made of."""

    def size(tensor: torch.Tensor) -> int:
        if is_traceable_wrapper_subclass(tensor):
            return sum(size(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
        return tensor.nbytes

    return sum(map(size, chain(model.parameters(), model.buffers())))


def run_in_turns(
    models: dict[str, EditRewardModel],
    rounds: Iterable[Sequence[BatchFeature]],
    device: torch.device,
    clock: str,
    warmup: int,
) -> tuple[dict[str, list[EditRewardOutput]], dict[str, list[float]]]:
    """Run every model over the batches of each round; outputs by precision and batch, seconds by precision and round.

    As many calls as `warmup` says, before the first round, do not count.
    """
    outputs: dict[str, list[EditRewardOutput]] = {name: [] for name in models}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for number, batches in enumerate(rounds):
        batches = [batch.to(device) for batch in batches]
        for name, model in models.items():
            precision = PRECISIONS[name]
            for _ in range(warmup if number == 0 else 0):
                precision.run(model, batches[0])
            run = partial(precision.run, model)
            taken, found = measure(lambda: [run(batch) for batch in batches], device, clock)  # noqa: B023
            seconds[name].append(taken)
            outputs[name] += found
            progress(f"round {number + 1}: {name} {taken:.3g} s")
    return outputs, seconds


def simulated_rounds(groups: Sequence[SimulatedGroup], processor: EditRewardProcessor) -> Iterator[list[BatchFeature]]:
    """Groups as batches, in rounds; made as they are asked for."""
    for start in range(0, len(groups), GROUPS_PER_ROUND):
        packed = [
            processor.pack(group.source, [candidate.image for candidate in group.candidates], group.instruction)
            for group in groups[start : start + GROUPS_PER_ROUND]
        ]
        yield [processor.collate(packed[i : i + GROUPS_PER_BATCH]) for i in range(0, len(packed), GROUPS_PER_BATCH)]


def judgements(
    outputs: Sequence[EditRewardOutput], groups: Sequence[SimulatedGroup], dimensions: Sequence[str]
) -> Judgements:
    """Raw scores of simulated groups, and the truth."""

    def by_group(values: torch.Tensor) -> list[np.ndarray]:
        return np.split(values.double().cpu().numpy(), ends)

    ends = np.cumsum([len(group.candidates) for group in groups])[:-1]
    means = torch.cat([output.mean for output in outputs if output.mean is not None])
    return Judgements(
        reward=by_group(torch.cat([output.reward for output in outputs if output.reward is not None])),
        mean={name: by_group(means[:, index]) for index, name in enumerate(dimensions)},
        std={},
        truth={
            name: [np.array([c.scores[name] for c in group.candidates], dtype=float) for group in groups]
            for name in dimensions
        },
    )


def compare_rankings(scores: Judgements, exact: Judgements) -> dict[str, Any]:
    """How a precision ranks candidates: against the truth, and against the rewards of another precision.

    Returns:
        `accuracy` of pairs overall and by dimension; `flipped`, the share of pairs that the other orders differently,
        and `flipped_beyond_margin`, of those whose rewards are more than `MARGIN` apart there; `kendall`, the mean
        over groups of Kendall's tau between both rewards, and `lowest_kendall`; `same_best`, the share of groups with
        the same best candidate; `largest_difference` of a reward.
    """
    flipped, gaps, group_of_pair, taus, same_best = [], [], [], [], []
    for number, (reward, expected) in enumerate(zip(scores.reward, exact.reward, strict=True)):
        first, second = np.triu_indices(len(expected), k=1)
        gap = expected[first] - expected[second]
        flipped.append(np.sign(reward[first] - reward[second]) != np.sign(gap))
        gaps.append(np.abs(gap))
        group_of_pair.append(np.full(len(first), number))
        taus.append(correlation(reward, expected, "kendall"))
        same_best.append(reward.argmax() == expected.argmax())
    flips, pairs = np.concatenate(flipped), np.concatenate(group_of_pair)
    wide = np.concatenate(gaps) > MARGIN
    return {
        "accuracy": {name: asdict(pair_accuracy(*scores.series(name))) for name in (OVERALL, *scores.mean)},
        "flipped": asdict(share_of_rows(flips, pairs)),
        "flipped_beyond_margin": asdict(share_of_rows(flips[wide], pairs[wide])),
        "kendall": asdict(mean_of_groups(taus)),
        "lowest_kendall": min(taus),
        "same_best": asdict(share_of_rows(same_best)),
        "largest_difference": float(np.abs(np.concatenate(scores.reward) - np.concatenate(exact.reward)).max()),
    }


def measure_rankings(
    models: dict[str, EditRewardModel], groups: Sequence[SimulatedGroup], device: torch.device, clock: str
) -> dict[str, Any]:
    """Score simulated groups in all precisions."""
    processor = EditRewardProcessor.from_pretrained(bundled_model(), trust_remote_code=False)
    outputs, seconds = run_in_turns(models, simulated_rounds(groups, processor), device, clock, warmup=1)
    scores = {name: judgements(found, groups, processor.dimensions) for name, found in outputs.items()}
    exact = scores["float32"]
    return {
        "groups": len(groups),
        "margin": MARGIN,
        "reward_std": float(np.concatenate(exact.reward).std()),
        "results": [
            {
                "precision": name,
                "seconds": seconds[name],
                **ratio_of(seconds["float32"], seconds[name]),
                "weight_bytes": weight_bytes(models[name]),
                **compare_rankings(scores[name], exact),
            }
            for name in models
        ],
    }


def measure_speed(
    models: dict[str, EditRewardModel], preset: Preset, cells: Sequence[tuple[str, int]], clock: str
) -> list[dict[str, Any]]:
    """Time of scoring a group of random images in all precisions, by layout and number of edits."""
    device = models["float32"].device
    images = random_images(1 + max(count for _, count in cells), preset.pixels)
    results = []
    for layout, count in cells:
        processor = build_processor(models["float32"], layout, preset.pixels)
        batch = processor(images[0], images[1 : 1 + count], INSTRUCTION)
        _, seconds = run_in_turns(models, [[batch]] * preset.repetitions, device, clock, preset.warmup)
        results += [
            {
                "layout": layout,
                "candidates": count,
                "precision": name,
                "seconds": seconds[name],
                **ratio_of(seconds["float32"], seconds[name]),
                "weight_bytes": weight_bytes(models[name]),
            }
            for name in models
        ]
    return results


def rankings_table(rankings: dict[str, Any]) -> str:
    """The results of `measure_rankings` as Markdown."""

    def percent(share: dict[str, Any], digits: int = 1) -> str:
        interval = f" ({100 * share['low']:.{digits}f} to {100 * share['high']:.{digits}f})"
        return f"{100 * share['value']:.{digits}f} %{interval}"

    names = list(rankings["results"][0]["accuracy"])
    columns = ["precision", *(name.replace("_", " ") for name in names), "pairs flipped"]
    columns += [f"more than {rankings['margin']:g} apart", "Kendall's tau (lowest)", "same best"]
    columns += ["largest difference", "weights, MiB", "ratio (range)"]
    lines = [f"| {' | '.join(columns)} |", f"|---{'|--:' * (len(columns) - 1)}|"]
    for row in rankings["results"]:
        low, high = row["ratio_range"]
        cells = [row["precision"], *(percent(row["accuracy"][name]) for name in names)]
        cells += [percent(row["flipped"], 2), percent(row["flipped_beyond_margin"], 2)]
        cells += [f"{row['kendall']['value']:.4f} ({row['lowest_kendall']:.2f})", percent(row["same_best"])]
        cells += [f"{row['largest_difference']:.2g}", f"{row['weight_bytes'] / 2**20:,.1f}"]
        cells += [f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def speed_table(results: Sequence[dict[str, Any]]) -> str:
    """The results of `measure_speed` as Markdown."""
    lines = ["| layout | edits | precision | seconds | ratio (range) | weights, MiB |", "|---|--:|---|--:|--:|--:|"]
    for row in results:
        low, high = row["ratio_range"]
        lines.append(
            f"| {row['layout']} | {row['candidates']} | {row['precision']} "
            f"| {statistics.median(row['seconds']):.3g} | {row['ratio']:.2f} ({low:.2f} to {high:.2f}) "
            f"| {row['weight_bytes'] / 2**20:,.1f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="cpu-tiny", help="(default: %(default)s)")
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=tuple(PRECISIONS), metavar="NAME", help="(default: all)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: CUDA if there is one)")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="time to measure (default: %(default)s)")
    parser.add_argument(
        "--test_set",
        default="configs/simulated_test_set.json",
        help="groups that the bundled model ranks (default: %(default)s)",
    )
    shapes = parser.add_argument_group("of presets with random weights")
    shapes.add_argument("--shape", metavar="FILE", help="JSON of another backbone's configuration")
    shapes.add_argument("--pixels", type=int, metavar="N", help="of each image (default: the preset's)")
    shapes.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=("compact",), help="(default: compact)")
    shapes.add_argument("--candidates", nargs="+", type=int, default=(1, 4), metavar="N", help="(default: 1 4)")
    shapes.add_argument("--repetitions", type=int, metavar="N", help="(default: the preset's)")
    args = parser.parse_args(argv)
    names = list(dict.fromkeys(("float32", *args.precisions)))
    if any(PRECISIONS[name].int8 for name in names) and find_spec("torchao") is None:
        parser.error("int8 needs torchao: `pip install torchao`, or leave it out with --precisions")

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    changes = {"shape": args.shape, "pixels": args.pixels, "repetitions": args.repetitions}
    preset = replace(PRESETS[args.preset], **{name: value for name, value in changes.items() if value is not None})
    models = {name: PRECISIONS[name].build(preset, device) for name in names if not PRECISIONS[name].autocast}
    models = {name: models["float32" if PRECISIONS[name].autocast else name] for name in names}
    report: dict[str, Any] = {
        "preset": args.preset,
        "shape": preset.shape,
        "pixels": preset.pixels,
        "machine": machine_name(device),
        "clock": args.clock,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "matrix_multiply_peak": {
            str(dtype).removeprefix("torch."): matrix_multiply_peak(device, dtype, args.clock)
            for dtype in (torch.float32, torch.bfloat16)
        },
    }
    if any(PRECISIONS[name].int8 for name in names):
        report["torchao"] = version("torchao")
    if preset.shape is None:
        report["rankings"] = measure_rankings(models, TestSet.from_json(args.test_set).load(), device, args.clock)
        table = rankings_table(report["rankings"])
    else:
        cells = [(layout, count) for layout in args.layouts for count in args.candidates]
        report["speed"] = measure_speed(models, preset, cells, args.clock)
        table = speed_table(report["speed"])
    progress("")
    peaks = ", ".join(f"{name} {peak / 1e9:,.0f} GFLOP/s" for name, peak in report["matrix_multiply_peak"].items())
    print(f"{args.preset} on {report['machine']}; {args.clock} time; matrix products: {peaks}.\n")
    print(table)
    write_json(args.json, report)
    return report


if __name__ == "__main__":
    main()
