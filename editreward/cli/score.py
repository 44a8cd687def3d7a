"""`editreward score`: score and rank edits of one source, of a table, or of a dataset."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editreward.cli.commands import Commands
from editreward.cli.paths import reads
from editreward.cli.score_dataset import OF_DATASETS, OF_FILES, OF_TABLES, add_file_options, run_score_file
from editreward.cli.scorer_options import add_scorer_options, scorer_of
from editreward.groups import EditGroup, GroupScores, Scorer, Unscored
from editreward.reports.ranking import ranking_table, reason_lines
from editreward.scorers.registry import check_answers

if TYPE_CHECKING:
    from editreward.groups.where import Where

OF_ONE_GROUP = ("source", "edited", "instruction")
"""Options that one source needs, all of them."""

PICTURES = (".png", ".jpg", ".jpeg")

USAGE = """\
editreward score --source IMAGE --edited IMAGE [IMAGE ...] --instruction TEXT
       editreward score --table FILE --output FILE [--images DIR]
       editreward score --dataset DIR_OR_ID --output FILE"""


def add_score(commands: Commands) -> None:
    """Declare `editreward score`."""
    parser = commands.add_parser(
        "score",
        usage=USAGE,
        help="score and rank edits of a source, a table or a dataset",
        description="Score and rank edits by how well they follow the instruction and how good they look: those of "
        "one source image (a table is printed), or those of every row of a table of yours or of a dataset (a file is "
        "written).",
        epilog="Example: editreward score --source cat.png --edited a.png b.png "
        '--instruction "give the cat a red hat"',
    )
    one = parser.add_argument_group("one source (all three are required)")
    one.add_argument(
        "--source",
        action="append",
        metavar="IMAGE",
        help="the image before the edit, a file or URL; repeat the option for an edit of several images",
    )
    one.add_argument(
        "--edited",
        nargs="+",
        action="extend",
        metavar="IMAGE",
        help="the edited images to compare, files or URLs",
    )
    one.add_argument("--instruction", metavar="TEXT", help="the instruction that the edits were to follow")
    one.add_argument("--json", action="store_true", help="print JSON, candidates in the order given")
    one.add_argument(
        "--where", metavar="FILE", help="draw where in the edits something speaks against them, .png or .jpg"
    )
    add_file_options(parser)
    add_scorer_options(parser)
    reads(parser, source="image", edited="image")
    parser.set_defaults(run=run_score, check=check_options)


def check_options(args: argparse.Namespace) -> str:
    """Be sure that the options are those of one way to score, and that none is missing.

    Returns:
        "source", "table" or "dataset".

    Raises:
        ValueError: they are not; the message says which is missing, or which has no effect.
    """
    ways = [way for way in ("source", "table", "dataset") if getattr(args, way)]
    if len(ways) > 1:
        raise ValueError(f"`--{ways[0]}` and `--{ways[1]}` are two ways to score: choose one.")
    way = ways[0] if ways else "source"
    needed = OF_ONE_GROUP if way == "source" else ("output",)
    missing = [f"--{name}" for name in needed if not getattr(args, name)]
    if missing and not ways:
        raise ValueError(f"{', '.join(missing)} missing; or score a file: --table or --dataset, and --output.")
    if missing:
        raise ValueError(f"`--{way}` needs {' and '.join(missing)} as well.")
    if args.where and not args.where.lower().endswith(PICTURES):
        raise ValueError(f"`--where {args.where}` must end in {' or '.join(PICTURES)}.")
    own = {
        "source": (*OF_ONE_GROUP, "json", "where"),
        "table": ("table", *OF_TABLES, *OF_FILES),
        "dataset": ("dataset", *OF_DATASETS, *OF_FILES),
    }
    others = [name for names in own.values() for name in names if name not in own[way]]
    given = [name for name in others if getattr(args, name)]
    if given and way == "source":
        raise ValueError(f"`--{given[0].replace('_', '-')}`: only with a `--dataset` or a `--table`.")
    if given:
        listed = ", ".join(f"--{name.replace('_', '-')}" for name in dict.fromkeys(given))
        raise ValueError(f"`--{way}` is scored into a file, without {listed}.")
    return way


def run_score(args: argparse.Namespace) -> int | None:
    """Score one group of edits and print it as a table or as JSON, or a table or dataset into a file.

    Returns 1 if an edited image could not be scored, or `--where` not be drawn.
    """
    if check_options(args) != "source":
        return run_score_file(args)
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
        where, fault = where_or_fault(scorer, args, group, scores)
        found = as_json(scorer, args, scores, where)
        found["notes"] += [fault] if fault else []
        print(json.dumps(found, ensure_ascii=False, indent=2, allow_nan=False))
        return 1 if fault else status
    print(f"Instruction  {args.instruction}")
    print(f"Source       {', '.join(args.source)}")
    print(f"Model        {scorer.name}")
    print()
    print(ranking_table(args.edited, scores))
    print()
    if reasons := reason_lines(args.edited, scores):
        print("\n".join([*reasons, ""]))
    _, fault = where_or_fault(scorer, args, group, scores)
    if args.where and not fault:
        print(f"Picture: {args.where}")
    for note in [*scorer.notes, *([fault] if fault else [])]:
        print(f"Note: {note}")
    return 1 if fault else status


def where_or_fault(
    scorer: Scorer, args: argparse.Namespace, group: EditGroup, scores: GroupScores
) -> tuple[dict[int, "Where"], str]:
    """What `--where` asks for; and why it could not be drawn, which costs no score: empty if nothing is wrong."""
    try:
        return (draw_where_file(scorer, args, group, scores) if args.where else {}), ""
    except (ValueError, OSError) as error:
        return {}, f"`--where {args.where}` could not be drawn: {error}"


def draw_where_file(
    scorer: Scorer, args: argparse.Namespace, group: EditGroup, scores: GroupScores
) -> dict[int, "Where"]:
    """Draw where something speaks against the edits that were scored; their maps, by place."""
    from editreward.reports.picture import ScoredGroup, draw_groups
    from editreward.scorers.where import where
    from images_editreward import load_image

    places = list(scores.scored)
    kept = EditGroup(group.sources, group.instruction, [group.edited[place] for place in places])
    found = where(scorer, kept)
    sources = [load_image(image, f"source[{index}]") for index, image in enumerate(kept.sources)]
    opened = EditGroup(sources, kept.instruction, [of.image for of in found])
    of_kept = GroupScores(tuple(scores.scored.values()))
    names = [Path(str(args.edited[place])).name for place in places]
    drawn = ScoredGroup(f"Ranked by {scorer.name}", opened, names, of_kept, found)
    path = Path(args.where)
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_groups([drawn], scorer.notes).save(path)
    return dict(zip(places, found, strict=True))


def as_json(
    scorer: Scorer, args: argparse.Namespace, scores: GroupScores, where: Mapping[int, "Where"] | None = None
) -> dict[str, Any]:
    """What `editreward score --json` prints."""
    plain = scores.to_dict()
    for place, found in (where or {}).items():
        plain["candidates"][place]["where"] = found.to_dict()
    return {
        "model": scorer.name,
        "notes": list(scorer.notes),
        "source": args.source,
        "instruction": args.instruction,
        "best": plain["best"],
        "candidates": [{"file": file, **one} for file, one in zip(args.edited, plain["candidates"], strict=True)],
    }
