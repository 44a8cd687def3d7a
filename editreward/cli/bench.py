"""`editreward bench`: run a reward model, a baseline or a judge of pairs on a benchmark, and compare results.

Every benchmark of `editreward.benchmarks` is a command, and so is what else there is, a pair of functions `add_NAME`
and `run_NAME` as in `editreward.cli.command`. To add one of these, write the pair, in a module of this folder, and
list `add_NAME` in `BENCH_COMMANDS`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from editreward.benchmarks.registry import BENCHMARKS
from editreward.cli.bench_compare import add_compare
from editreward.cli.bench_options import add_cache_options
from editreward.cli.bench_robustness import add_robustness
from editreward.cli.commands import Commands
from editreward.cli.paths import reads
from editreward.cli.scorer_options import add_scorer_options, scorer_or_judge_of

BENCH_COMMANDS: tuple[Callable[[Commands], None], ...] = (
    add_compare,  # one a line
    add_robustness,
)


def add_bench(commands: Commands) -> None:
    """Declare `editreward bench`."""
    parser = commands.add_parser(
        "bench",
        help="run a reward model or a baseline on a benchmark",
        description="Run a reward model, a baseline or a judge of pairs on a benchmark, or compare results. "
        "docs/benchmarks.md has the benchmarks.",
        epilog="Example: editreward bench editreward-bench --model org/EditReward --output results/",
    )
    subcommands = parser.add_subparsers(
        title="benchmarks and commands", dest="subcommand", required=True, metavar="NAME"
    )
    for name in BENCHMARKS:
        add_benchmark(subcommands, name, BENCHMARKS.about(name))
    for add_command in BENCH_COMMANDS:
        add_command(subcommands)


def add_benchmark(commands: Commands, name: str, about: str) -> None:
    """Declare `editreward bench NAME`."""
    parser = commands.add_parser(
        name,
        help=about,
        description=f"Run a scorer or a judge of pairs on a benchmark, {about}, and print its measures as a Markdown "
        "table. Answers are cached by content: a run that was killed goes on. On several GPUs: "
        f"accelerate launch -m editreward.cli bench {name} ...",
        epilog=f"Example: editreward bench {name} --model org/EditReward --output results/",
    )
    add_scorer_options(parser)
    parser.add_argument(
        "--data",
        metavar="DIR_OR_ID",
        help="the benchmark's data: a folder that was imported or built, a file or folder in the published format, or "
        "a Hub dataset (default: the published one, where the Hub has it in a known format)",
    )
    parser.add_argument("--images", metavar="ROOT", help="folder that image paths of the published format start from")
    parser.add_argument("--split", help="split of a Hub dataset (default: all)")
    parser.add_argument("--revision", help="commit, branch or tag of a Hub dataset")
    parser.add_argument(
        "--output", metavar="DIR", help="write the result as JSON, Markdown, HTML and a figure, and all answers there"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N groups, for a quick look")
    parser.add_argument(
        "--shuffle-instructions",
        action="store_true",
        help="show each group another group's instruction: what is still right needed no instruction",
    )
    parser.add_argument(
        "--position-bias", action="store_true", help="ask a judge of pairs about every pair in both orders"
    )
    add_cache_options(parser)
    reads(parser, data="dataset", images="folder")
    parser.set_defaults(run=run_bench, benchmark=name)


def run_bench(args: argparse.Namespace) -> None:
    """Run a benchmark and print the result."""
    from editreward.benchmarks import load_benchmark, run_benchmark
    from editreward.benchmarks.runner import Runner
    from editreward.scorers.folders import cache_folder
    from editreward.scorers.processes import Processes

    processes = Processes()
    benchmark = BENCHMARKS[args.benchmark]
    cache = Path(args.cache) if args.cache else cache_folder()
    data = load_benchmark(
        benchmark,
        args.data,
        images=args.images,
        split=args.split,
        revision=args.revision,
        cache=cache,
        processes=processes,
    )
    result = run_benchmark(
        benchmark,
        data,
        scorer_or_judge_of(args, processes.device),
        Runner(cache=None if args.no_cache else cache, processes=processes),
        limit=args.limit,
        shuffle_instructions=args.shuffle_instructions,
        with_position_bias=args.position_bias,
    )
    if processes.is_main:
        print(result.headline(), end="\n\n")
        print(result.markdown())
        if args.output:
            from editreward.benchmarks.reports.report import write_report

            for file in write_report(result, data.rows, Path(args.output)):
                print(f"Wrote {file}")
