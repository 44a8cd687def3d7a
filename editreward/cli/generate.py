"""`editreward generate`: candidates of image editors, as a dataset of edit groups."""

import argparse
from typing import TYPE_CHECKING

from editreward.cli.commands import Commands
from editreward.cli.paths import reads
from editreward.printing import printable

if TYPE_CHECKING:
    from editreward.editors.run import GenerationReport

SIMULATED = "simulated"
SHOWN = 10
"""Failures, and rows that are left out, that the summary prints."""


def add_generate(commands: Commands) -> None:
    """Declare `editreward generate`."""
    parser = commands.add_parser(
        "generate",
        help="edit images with several editors and seeds, to be annotated",
        description="Run image editors over source images and instructions, several seeds each, and write the "
        "candidates as a dataset of edit groups. A run that was stopped goes on where it was; a candidate that fails "
        "is noted with its reason. Exits with 1 if a candidate was not made or a row is left out.",
        epilog="Example: editreward generate --instructions my-images/ --editors configs/editors.yaml --keep 7 "
        "--output candidates/. On several GPUs: accelerate launch -m editreward.cli generate ...",
    )
    parser.add_argument(
        "--instructions",
        required=True,
        metavar="DATASET",
        help="what to edit: a folder, Parquet file or Hub id of rows with source_images and instruction; a folder of "
        "images with a metadata.jsonl of file_name and instruction; a CSV or JSON Lines of source and instruction; or "
        f"'{SIMULATED}', '{SIMULATED}:collage'",
    )
    parser.add_argument("--editors", required=True, metavar="FILE.yaml", help="the editors and their seeds")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="where the dataset and its candidates go")
    parser.add_argument("--split", default="train", help="split to read and to write (default: %(default)s)")
    parser.add_argument("--offset", type=_count, default=0, metavar="N", help="leave out the first N rows")
    parser.add_argument(
        "--limit", type=_count, metavar="N", help=f"stop after N rows; '{SIMULATED}', which is endless, needs it"
    )
    parser.add_argument(
        "--keep",
        type=_count,
        metavar="N",
        help="draw N candidates of each group, editors in balance (the paper: 7 of 12); the others stay in the "
        "output folder's candidates/ (default: all)",
    )
    parser.add_argument("--draw-seed", type=_count, default=0, metavar="N", help="seed of the draw (default: 0)")
    parser.add_argument("--retry-failed", action="store_true", help="try again what failed in an earlier run")
    parser.add_argument(
        "--dimensions",
        nargs="+",
        metavar="NAME",
        help="what candidates are to be scored on (default: instruction following and visual quality)",
    )
    reads(parser, instructions="dataset", editors="file")
    parser.set_defaults(run=run_generate)


def run_generate(args: argparse.Namespace) -> int:
    """Generate candidates and print what became of them."""
    from datasets import disable_progress_bars

    from configuration_editreward import DEFAULT_DIMENSIONS
    from editreward.editors.editors import read_editors
    from editreward.editors.instructions import open_instructions
    from editreward.editors.run import generate, process_state

    disable_progress_bars()
    editors = read_editors(args.editors)
    state = process_state()
    with state.main_process_first():  # which prepares the dataset in the cache for the others
        instructions = open_instructions(args.instructions, args.split, args.offset, args.limit)
    report = generate(
        instructions,
        editors,
        args.output,
        split=args.split,
        keep=args.keep,
        draw_seed=args.draw_seed,
        retry_failed=args.retry_failed,
        dimensions=args.dimensions or DEFAULT_DIMENSIONS,
        state=state,
    )
    if report is None:
        return 0
    print(summary(report, args.output, args.keep))
    return 0 if report.complete else 1


def summary(report: "GenerationReport", output: str, keep: int | None) -> str:
    """What `editreward generate` prints."""
    dataset = report.dataset
    total = sum(dataset.candidates.values())
    width = max(len("editor"), *(len(name) for name in report.editors))
    lines = [
        f"Wrote {output}: {dataset.groups} groups, {total} candidates; {report.new} candidates are new.",
        "",
        f"{'editor':{width}}  {'planned':>8}  {'made':>8}  {'failed':>8}  {'missing':>8}  {'dataset':>8}",
    ]
    for name, count in report.editors.items():
        numbers = (count.planned, count.made, count.failed, count.missing, count.in_dataset)
        lines.append(f"{name:{width}}  " + "  ".join(f"{number:8}" for number in numbers))
    failures = [
        f"{failed.group_id}, {failed.editor}, seed {failed.seed}: {failed.error}" for failed in report.failures
    ]
    left_out = [f"{group_id}: {why}" for group_id, why in dataset.left_out.items()]
    lines += _listed(failures, "failed; --retry-failed tries them again")
    lines += _listed(left_out, "rows are not in the dataset")
    lines += _listed(dataset.short, f"groups have fewer than {keep} candidates")
    if dataset.repeated:
        fate = "in the dataset" if keep is None else "not drawn"
        lines += ["", f"{dataset.repeated} candidates equal their source or another of the group: {fate}."]
    if report.unplanned:
        lines += ["", f"{report.unplanned} candidates by other editors or with other seeds are not in the dataset."]
    return "\n".join(lines)


def _listed(items: list[str], what: str) -> list[str]:
    if not items:
        return []
    more = [f"  and {len(items) - SHOWN} more"] if len(items) > SHOWN else []
    return ["", f"{len(items)} {what}:", *(f"  {printable(item)}" for item in items[:SHOWN]), *more]


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


_count.__name__ = "number"  # what argparse calls it in errors
