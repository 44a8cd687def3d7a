"""`editreward edit-bench`: what an image editor reaches on the editing benchmarks."""

import argparse
import math
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from editreward.cli.commands import Commands
from editreward.cli.paths import reads
from editreward.cli.scorer_options import add_scorer_options, scorer_of

if TYPE_CHECKING:
    from datasets import Dataset

    from editreward.benchmarks.editing.gedit_bench import GEditScores, Judgement
    from editreward.benchmarks.editing.imgedit_bench import ImgEditScores
    from editreward.benchmarks.editing.judging import Edit
    from editreward.editors.editors import Editor

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
        help="ImgEdit-Bench, basic: scores of 9 types of edits",
        description="Judge the images RESULTS/KEY.png with a scorer, or aggregate a judge's answers, result.json, and "
        "print ImgEdit-Bench's table. A run that was stopped goes on; an answer that cannot be read is counted, and "
        "asked for again by the next run. Exits with 1 if an edit has no score.",
        epilog="Example: editreward edit-bench imgedit-bench --results result.json --edits basic_edit.json",
    )
    parser.add_argument(
        "--results",
        required=True,
        nargs="+",
        metavar="PATH",
        help="result.json, the answer of each edit by key; several are repeated judgements. With --scorer or "
        "--editors: the folder of the edited images, KEY.png",
    )
    parser.add_argument("--edits", required=True, metavar="FILE", help="basic_edit.json: prompt and type of each edit")
    parser.add_argument("--sources", metavar="DIR", help="folder of the source images")
    parser.add_argument(
        "--questions",
        metavar="FILE",
        help="prompts.json: what a judge is asked, by type. Without it, a scorer is shown the edit's own prompt",
    )
    parser.add_argument("--judge", metavar="NAME", help="folder for the answers (default: the scorer's name)")
    parser.add_argument(
        "--editors", metavar="FILE.yaml", help="one editor with one seed: makes the images that are not in RESULTS"
    )
    parser.add_argument(
        "--retry-failed", action="store_true", help="try again the images that failed in an earlier run"
    )
    add_scorer_options(parser)
    reads(parser, edits="file", sources="folder", questions="file", editors="file")
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

    editor = _one_editor(args.editors)
    rows = load_rows(args.data, "train")
    edits = _edits(args, rows)
    places = {edit.id: edit.files(results) for edit in edits}
    failed = generate_results(places, instructions_of(edits, rows), editor, results, args.retry_failed)
    return _told_of_images(failed)


def _one_editor(file: str) -> "Editor":
    from editreward.editors.editors import read_editors

    editors = read_editors(file)
    if len(editors) != 1:
        raise ValueError(f"{file} has {len(editors)} editors: a folder of results is one editor's.")
    return editors[0]


def _told_of_images(failed: dict[str, str] | None) -> int | None:
    """Print what was not made. Returns the exit code, None where another process does so."""
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
    judged = judging.judge(edits, results, scorer, judging.answers_file(results / name, args.language).parent)
    # First, since a task without any score ends the command.
    status = _print_faults(
        [f"{key}: {why}" for key, why in judged.failed.items()], "edits have no score; the next run asks again"
    )
    if not judged.repeats and not judged.rewards:
        raise ValueError("No edit has a score.")
    if not judged.repeats:
        print(f"{scorer.name} is no judge of SC and PQ: its own scores, which compare with no published number.")
        print(f"Note: {CONTAMINATION}.")
        print("\n".join(f"Note: {note}" for note in scorer.notes), end="\n\n")
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
    """Make and judge images where it is asked for, and print the table of ImgEdit-Bench."""
    from editreward.benchmarks.editing import imgedit_bench as imgedit

    content = imgedit.read_object(Path(args.edits))
    status = 0
    if args.editors is not None:
        made = _generate_imgedit(args, content)
        if made is None or args.scorer is None:  # of several processes the first one judges
            return made or 0
        status = made
    if args.scorer is not None:
        return max(status, _judge_imgedit(args, content))
    repeats = [imgedit.aggregate(content, imgedit.read_object(Path(file))) for file in args.results]
    _print_imgedit(repeats)
    faults = [f"{key}: {why}" for one in repeats for key, why in one.failed.items()]
    print()
    return _print_faults(faults, "edits have no score")


def _folder_of_images(args: argparse.Namespace) -> tuple[Path, Path]:
    """The folders of edited and of source images."""
    if len(args.results) > 1 or args.sources is None:
        raise ValueError(
            "With --scorer or --editors, --results is one folder of images, and --sources that of sources."
        )
    return Path(args.results[0]), Path(args.sources)


def _generate_imgedit(args: argparse.Namespace, content: dict[str, Any]) -> int | None:
    """Make the images that are missing. Returns the exit code, and None in all processes but the main one."""
    from editreward.benchmarks.editing.imgedit_judging import edits_of
    from editreward.cli.edit_bench_generate import generate_results, instructions_of_imgedit

    images, sources = _folder_of_images(args)
    edits = edits_of(content)
    places = {edit.key: (None, images / f"{edit.key}.png") for edit in edits}
    instructions = instructions_of_imgedit(edits, sources)
    return _told_of_images(
        generate_results(places, instructions, _one_editor(args.editors), images, args.retry_failed)
    )


def _judge_imgedit(args: argparse.Namespace, content: dict[str, Any]) -> int:
    from editreward.benchmarks.editing import imgedit_bench as imgedit
    from editreward.benchmarks.editing import imgedit_judging as judging

    images, sources = _folder_of_images(args)
    edits, questions = judging.edits_of(content), None
    if args.questions is not None:
        questions = judging.questions_of(imgedit.read_object(Path(args.questions)), edits)
        args.prompts = args.prompts or imgedit.PROMPTS
    scorer = scorer_of(args)
    folder = images / (args.judge or _folder_name(scorer.name))
    judged = judging.judge(edits, images, sources, scorer, folder, questions)
    status = _print_faults(
        [f"{key}: {why}" for key, why in judged.failed.items()], "edits have no score; the next run asks again"
    )
    if questions is None:
        print(f"{scorer.name} was shown the edits' prompts: its own scores, which compare with no published number.")
        print(f"Note: {imgedit.CONTAMINATION}.")
        print("\n".join(f"Note: {note}" for note in scorer.notes), end="\n\n")
        _print_rewards(judging.mean_rewards(judged, edits))
    else:
        print(f"Wrote {folder}/result.json")
        _print_imgedit([imgedit.aggregate(content, results) for results in judged.repeats])
    return status


def _print_imgedit(repeats: "list[ImgEditScores]") -> None:
    """The table, of several judgements by their means."""
    first, number = repeats[0], len(repeats)
    print("| type | edits | score | without irregular answers |\n|---|---|---|---|")
    for name in first.by_type:
        strict = [one.strict[name] for one in repeats if name in one.strict]
        told = f"{fmean(strict):.2f}" if len(strict) == number else "-"
        print(f"| {name} | {first.counts[name]} | {fmean(one.by_type[name] for one in repeats):.2f} | {told} |")
    means = [one.mean for one in repeats]
    spread = f" ± {stdev(means):.2f}" if number > 1 else ""
    title = f"mean over types{f', {number} judgements, ± standard deviation' if number > 1 else ''}"
    print(f"| **{title}** | {sum(first.counts.values())} | {fmean(means):.2f}{spread} | |")
    irregular = sum(len(one.irregular) for one in repeats)
    if irregular:
        print(f"\n{irregular} answers count that are not three numbers of 1 to 5, as published.")


def _print_faults(faults: list[str], what: str) -> int:
    """Print the first of what has no score. Returns the exit code."""
    from editreward.printing import printable

    if faults:
        print(f"{len(faults)} {what}:")
        print("\n".join(f"  {printable(fault)}" for fault in faults[:SHOWN]), end="\n\n")
    return 1 if faults else 0
