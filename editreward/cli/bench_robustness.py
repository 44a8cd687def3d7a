"""`editreward bench robustness`: put a reward model or a baseline under stress."""

import argparse
from pathlib import Path

from editreward.cli.bench_options import add_cache_options
from editreward.cli.commands import Commands
from editreward.cli.paths import reads
from editreward.cli.scorer_options import add_scorer_options, scorer_of

SIMULATED_GROUPS = 150


def add_robustness(commands: Commands) -> None:
    """Declare `editreward bench robustness`."""
    parser = commands.add_parser(
        "robustness",
        help="scores under stress: what should stay, fall, lose and gain nothing",
        description="Tell whether scores stay where they should (re-encoding, resizing, another wording), fall where "
        "they should (blur, noise, over-edits), and cannot be talked up, and print tables in Markdown. Answers are "
        "cached by content: a run that was killed goes on. docs/robustness.md has the stresses.",
        epilog="Example: editreward bench robustness --model org/EditReward --output results/",
    )
    add_scorer_options(parser)
    parser.add_argument(
        "--data",
        metavar="DIR_OR_ID",
        help="a dataset of edit groups, a folder or on the Hub (default: simulated groups, without a download)",
    )
    parser.add_argument(
        "--groups",
        type=int,
        metavar="N",
        help=f"number of groups (default: {SIMULATED_GROUPS} simulated ones, all groups of --data)",
    )
    parser.add_argument("--output", metavar="DIR", help="write result.json, result.md, robustness.png and the answers")
    add_cache_options(parser)
    reads(parser, data="dataset")
    parser.set_defaults(run=run_robustness)


def run_robustness(args: argparse.Namespace) -> None:
    """Put a scorer under stress and print what was found."""
    from editreward.benchmarks import robustness
    from editreward.benchmarks.runner import Runner
    from editreward.scorers.folders import cache_folder
    from editreward.scorers.processes import Processes

    if args.groups is not None and args.groups < 2:
        raise ValueError(f"--groups: intervals over groups need two or more, not {args.groups}.")
    processes = Processes()
    scorer = scorer_of(args, processes.device)
    if args.data:
        data = robustness.stored(args.data, args.groups)
    else:
        data = robustness.simulated(args.groups or SIMULATED_GROUPS)
    cache = Path(args.cache) if args.cache else cache_folder()
    runner = Runner(cache=None if args.no_cache else cache, processes=processes)
    result = robustness.run_robustness(data, scorer, runner)
    if processes.is_main:
        print(result.markdown())
        if args.output:
            for file in result.write(Path(args.output)):
                print(f"Wrote {file}")
