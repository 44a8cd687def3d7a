"""`editreward score`: score and rank edits of one source, or of a dataset."""

import argparse
import json
from typing import Any

from editreward.cli.commands import Commands
from editreward.cli.score_dataset import OF_DATASETS, add_dataset_options, run_score_dataset
from editreward.cli.scorer_options import add_scorer_options, scorer_of
from editreward.groups import EditGroup, GroupScores, Scorer, Unscored
from editreward.reports.ranking import ranking_table, reason_lines
from editreward.scorers.registry import check_answers


def add_score(commands: Commands) -> None:
    """Declare `editreward score`."""
    parser = commands.add_parser(
        "score",
        help="score and rank edits of one source image, or of a dataset",
        description="Score and rank edits of one source image by how well they follow the instruction and how good "
        "they look; or with --dataset those of every source of a dataset.",
        epilog="Example: editreward score --source cat.png --edited a.png b.png "
        '--instruction "give the cat a red hat"',
    )
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="IMAGE",
        help="the image before the edit, a file or URL; repeat the option for an edit of several images",
    )
    parser.add_argument(
        "--edited",
        nargs="+",
        action="extend",
        required=True,
        metavar="IMAGE",
        help="the edited images to compare, files or URLs",
    )
    parser.add_argument("--instruction", required=True, help="the instruction that the edits were to follow")
    parser.add_argument("--json", action="store_true", help="print JSON, candidates in the order given")
    add_scorer_options(parser)
    add_dataset_options(parser)
    parser.set_defaults(run=run_score)


def run_score(args: argparse.Namespace) -> int | None:
    """Score one group of edits and print it as a table or as JSON, or a dataset into a file.

    Returns 1 if an edited image could not be scored.
    """
    if args.dataset:
        return run_score_dataset(args)
    if given := [f"`--{name}`" for name in OF_DATASETS if getattr(args, name) is not None]:
        raise ValueError(f"{', '.join(given)}: only with a `--dataset`.")
    group = EditGroup(args.source, args.instruction, args.edited)
    scorer = scorer_of(args)
    (scores,) = answers = scorer([group])
    check_answers(scorer, [group], answers)
    if isinstance(scores, Unscored):
        raise ValueError(scores.reason)
    if not scores.scored:
        raise ValueError(next(iter(scores.unscored.values())).reason)
    status = 1 if scores.unscored else 0
    if args.json:
        print(json.dumps(as_json(scorer, args, scores), ensure_ascii=False, indent=2, allow_nan=False))
        return status
    print(f"Instruction  {args.instruction}")
    print(f"Source       {', '.join(args.source)}")
    print(f"Model        {scorer.name}")
    print()
    print(ranking_table(args.edited, scores))
    print()
    if reasons := reason_lines(args.edited, scores):
        print("\n".join([*reasons, ""]))
    for note in scorer.notes:
        print(f"Note: {note}")
    return status


def as_json(scorer: Scorer, args: argparse.Namespace, scores: GroupScores) -> dict[str, Any]:
    """What `editreward score --json` prints."""
    plain = scores.to_dict()
    return {
        "model": scorer.name,
        "notes": list(scorer.notes),
        "source": args.source,
        "instruction": args.instruction,
        "best": plain["best"],
        "candidates": [{"file": file, **one} for file, one in zip(args.edited, plain["candidates"], strict=True)],
    }
