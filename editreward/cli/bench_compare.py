"""`editreward bench compare`: several scorers on one benchmark, side by side."""

import argparse
from pathlib import Path

from editreward.cli.commands import Commands
from editreward.cli.paths import reads


def add_compare(commands: Commands) -> None:
    """Declare `editreward bench compare`."""
    parser = commands.add_parser(
        "compare",
        help="put results of several scorers side by side, with significance",
        description="Put results of one benchmark side by side and print them as Markdown: every measure with its "
        "interval, and the difference of every two scorers on the same cases with its p-value, by Holm's correction "
        "where there are more than two.",
        epilog="Example: editreward bench compare results/ours results/ssim --output comparison/",
    )
    parser.add_argument(
        "results",
        nargs="+",
        metavar="RESULT",
        help="folders that `editreward bench NAME --output` wrote, or the result.json in them",
    )
    parser.add_argument("--output", metavar="DIR", help="write it as JSON, Markdown, HTML and a figure there")
    reads(parser, results="path")
    parser.set_defaults(run=run_compare)


def run_compare(args: argparse.Namespace) -> None:
    """Compare results and print the comparison."""
    from editreward.benchmarks.reports.comparison import compare_results

    comparison = compare_results(args.results)
    print(comparison.page().markdown())
    if args.output:
        for file in comparison.write(Path(args.output)):
            print(f"Wrote {file}")
