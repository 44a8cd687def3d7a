"""`editreward edit-bench`: what an image editor reaches on the editing benchmarks."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from editreward.cli.commands import Commands
from editreward.cli.paths import reads
from editreward.cli.scorer_options import add_scorer_options, scorer_of

if TYPE_CHECKING:
    from datasets import Dataset

    from editreward.benchmarks.editing.gedit_bench import GEditScores, Judgement
    from editreward.benchmarks.editing.judging import Edit

GEDIT_TEXTS = ("task_type", "key", "instruction_language", "instruction", "Intersection_exist")
"""Columns of GEdit-Bench that are no images."""

SHOWN = 10
"""Failures that are printed; all are counted."""


def add_edit_bench(commands: Commands) -> None:
    """Declare `editreward edit-bench` and its benchmarks."""
    parser = commands.add_parser(
        "edit-bench",
        help="judge an image editor on GEdit-Bench or ImgEdit-Bench",
        description="Judge what an image editor made of a benchmark's instructions, or aggregate what was judged "
        "elsewhere, as the benchmark's authors do.",
    )
    benchmarks = parser.add_subparsers(title="benchmarks", dest="subcommand", required=True, metavar="NAME")
    _add_gedit(benchmarks)
    _add_imgedit(benchmarks)


def _add_gedit(commands: Commands) -> None:
    parser = commands.add_parser(
        "gedit-bench",
        help="GEdit-Bench: G_SC, G_PQ and G_O over 11 tasks",
        description="Judge the images in RESULTS/fullset/TASK/LANGUAGE with a scorer, or read the judged tables in "
        "RESULTS/JUDGE/eval_results_new, and print GEdit-Bench's table. A run that was stopped goes on; an answer "
        "that cannot be read is counted, and asked for again by the next run. Exits with 1 if an edit has no score.",
        epilog="Example: editreward edit-bench gedit-bench --results results/my-editor --judge gpt4o",
    )
    parser.add_argument("--results", required=True, metavar="DIR", help="an editor's results in the published layout")
    parser.add_argument(
        "--judge",
        nargs="+",
        metavar="NAME",
        help="folders of judged tables to aggregate; several are repeated judgements, with a standard deviation. "
        "With --scorer: the folder to write (default: the scorer's name)",
    )
    parser.add_argument("--editor", metavar="NAME", help="name of the editor in the tables' file names")
    parser.add_argument("--language", choices=("en", "cn"), default="en", help="of the instructions (default: en)")
    parser.add_argument(
        "--data",
        metavar="DIR_OR_ID",
        default="stepfun-ai/GEdit-Bench",
        help="the instructions, which a scorer needs (default: %(default)s)",
    )
    parser.add_argument(
        "--editors",
        metavar="FILE.yaml",
        help="one editor with one seed, as `editreward generate` takes them: makes the images that are not in RESULTS",
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="try again the images that failed in an earlier run"
    )
    add_scorer_options(parser)
    reads(parser, editors="file")
    parser.set_defaults(run=run_gedit)


def _add_imgedit(commands: Commands) -> None:
    parser = commands.add_parser(
        "imgedit-bench",
        help="ImgEdit-Bench, basic: scores of 9 types of edits, from judged answers",
        description="Aggregate a judge's answers, result.json, as the published scripts do. Exits with 1 if an edit "
        "has no score.",
        epilog="Example: editreward edit-bench imgedit-bench --results result.json --edits basic_edit.json",
    )
    parser.add_argument("--results", required=True, metavar="FILE", help="result.json: the answer of each edit by key")
    parser.add_argument("--edits", required=True, metavar="FILE", help="basic_edit.json: prompt and type of each edit")
    reads(parser, results="file", edits="file")
    parser.set_defaults(run=run_imgedit)


def run_gedit(args: argparse.Namespace) -> int:
    """Judge where a scorer is named, and print the table."""
    from editreward.benchmarks.editing import gedit_bench as gedit

    results = Path(args.results)
    status = 0
    if args.editors is not None:
        made = _generate(args, results)
        if made is None or args.scorer is None:  # of several processes the first one judges
            return made or 0
        status = made
    elif not results.is_dir():
        raise FileNotFoundError(f"There is no folder {results} of results: name one, or an editor (--editors).")
    if args.scorer is not None:
        return max(status, _judge(args, results))
    if not args.judge:
        judges = sorted(path.parent.name for path in results.glob("*/eval_results_new"))
        raise ValueError(f"Name judged tables with --judge (there are: {', '.join(judges) or 'none'}), or a --scorer.")
    repeats, faults = [], []
    for name in args.judge:
        folder = results / name / "eval_results_new"
        judgements, faulty = gedit.read_judgements(folder, args.editor or gedit.editor_of(folder))
        repeats.append(judgements)
        faults += [f"{name}: {fault}" for fault in faulty]
    status = _print_faults(faults, "rows have no score")
    _print_gedit(repeats, args.language)
    return status


def _edits(args: argparse.Namespace, rows: "Dataset") -> "list[Edit]":
    """The instructions of the language that is asked for."""
    from editreward.benchmarks.editing.judging import edits_of

    texts = rows.select_columns([name for name in GEDIT_TEXTS if name in rows.features])  # no image is decoded
    return [edit for edit in edits_of(texts) if edit.language == args.language]


def _generate(args: argparse.Namespace, results: Path) -> int | None:
    """Make the images that are missing. Returns the exit code, and None in all processes but the main one."""
    from editreward.cli.edit_bench_generate import generate_results, instructions_of
    from editreward.data.sources import load_rows
    from editreward.editors.editors import read_editors

    editors = read_editors(args.editors)
    if len(editors) != 1:
        raise ValueError(f"{args.editors} has {len(editors)} editors: a folder of results is one editor's.")
    rows = load_rows(args.data, "train")
    edits = _edits(args, rows)
    failed = generate_results(edits, instructions_of(edits, rows), editors[0], results, args.retry_failed)
    if failed is None:
        return None
    return _print_faults([f"{key}: {why}" for key, why in failed.items()], "images were not made")


def _judge(args: argparse.Namespace, results: Path) -> int:
    from editreward.benchmarks.editing import judging
    from editreward.benchmarks.editing.gedit_bench import CONTAMINATION
    from editreward.data.sources import load_rows

    edits = _edits(args, load_rows(args.data, "train"))
    scorer = scorer_of(args)
    if args.judge and len(args.judge) > 1:
        raise ValueError("With --scorer, --judge is one name: the folder that its tables go to.")
    name = args.judge[0] if args.judge else _folder_name(scorer.name)
    judged = judging.judge(edits, results, scorer, results / name / f"editreward-{args.language}")
    # First, since a task without any score ends the command.
    status = _print_faults(
        [f"{key}: {why}" for key, why in judged.failed.items()], "edits have no score; the next run asks again"
    )
    if judging.prompts_of(scorer) is None:
        print(f"{scorer.name} is no judge of SC and PQ: its own scores, which compare with no published number.")
        print(f"Note: {CONTAMINATION}.\n")
        _print_rewards(judging.mean_rewards(judged, edits, args.language))
    else:
        for folder in judging.write_tables(judged, results, name, args.editor or results.resolve().name):
            print(f"Wrote {folder}")
        _print_gedit(judged.repeats, args.language)
    return status


def _folder_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name)


def _print_gedit(repeats: "list[list[Judgement]]", language: str) -> None:
    from editreward.benchmarks.editing import gedit_bench as gedit

    scores = [gedit.aggregate(judgements, language) for judgements in repeats]
    print(f"| {language} | edits | G_SC | G_PQ | G_O |\n|---|---|---|---|---|")
    for task in gedit.TASKS:
        means = gedit.repeated_task(scores, task)
        print(f"| {task} | {scores[0].counts[task]} | {' | '.join(f'{value:.3f}' for value in means)} |")
    _print_means("mean over tasks", scores)
    try:
        _print_means("intersection", [gedit.aggregate(judgements, language, True) for judgements in repeats])
    except ValueError as error:
        print(f"\nNo intersection: {error}")
    if language == "en":
        print(f"\nPublished, not measured here ({gedit.PUBLISHED.source}; {gedit.PUBLISHED.note})\n")
        print("| editor | G_SC | G_PQ | G_O |\n|---|---|---|---|")
        for editor, values in gedit.PUBLISHED.rows.items():
            print(f"| {editor} | {' | '.join('-' if value is None else f'{value:.3f}' for value in values)} |")


def _print_means(title: str, scores: "list[GEditScores]") -> None:
    from editreward.benchmarks.editing.gedit_bench import repeated

    cells = [
        f"{one.mean:.3f}" + ("" if math.isnan(one.std) else f" ± {one.std:.3f}") for one in repeated(scores).values()
    ]
    repeats = f", {len(scores)} judgements, ± standard deviation" if len(scores) > 1 else ""
    print(f"| **{title}**{repeats} | {sum(scores[0].counts.values())} | {' | '.join(cells)} |")


def _print_rewards(means: dict[str, dict[str, float]]) -> None:
    names = list(means["mean"])
    print(f"| | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    for task, values in means.items():
        print(f"| {task} | {' | '.join(f'{values[name]:.3f}' for name in names)} |")


def run_imgedit(args: argparse.Namespace) -> int:
    """Print the table of ImgEdit-Bench."""
    from editreward.benchmarks.editing import imgedit_bench as imgedit

    scores = imgedit.aggregate(imgedit.read_object(Path(args.edits)), imgedit.read_object(Path(args.results)))
    print("| type | edits | score | without irregular answers |\n|---|---|---|---|")
    for name, value in scores.by_type.items():
        strict = scores.strict.get(name)
        print(f"| {name} | {scores.counts[name]} | {value:.2f} | {'-' if strict is None else f'{strict:.2f}'} |")
    print(f"| **mean over types** | {sum(scores.counts.values())} | {scores.mean:.2f} | |")
    if scores.irregular:
        print(f"\n{len(scores.irregular)} answers count that are not three numbers of 1 to 5, as published.")
    return _print_faults([f"{key}: {why}" for key, why in scores.failed.items()], "edits have no score")


def _print_faults(faults: list[str], what: str) -> int:
    """Print the first of what has no score. Returns the exit code."""
    from editreward.printing import printable

    if faults:
        print(f"{len(faults)} {what}:")
        print("\n".join(f"  {printable(fault)}" for fault in faults[:SHOWN]), end="\n\n")
    return 1 if faults else 0
