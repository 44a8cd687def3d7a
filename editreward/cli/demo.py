"""`editreward demo`: two groups scored, ranked and drawn."""

import argparse

from editreward.cli.commands import Commands
from editreward.cli.scorer_options import add_scorer_options, scorer_of


def add_demo(commands: Commands) -> None:
    """Declare `editreward demo`."""
    parser = commands.add_parser(
        "demo",
        help="score simulated edits and edits of a photo, and draw them",
        description="Score held-out simulated groups, which nobody picked, and a few edits of a photograph, print the "
        "rankings and draw them into a picture, with what speaks against the simulated edits.",
        epilog="Example: editreward demo --output demo.png --seed 3",
    )
    parser.add_argument(
        "--output", default="out/demo.png", metavar="FILE", help="the picture, .png or .jpg (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="which simulated group (default: %(default)s)")
    parser.add_argument(
        "--worlds",
        nargs="+",
        choices=("shapes", "collage"),
        help="simulated worlds to show (default: those that the model has learnt, as far as that is known)",
    )
    add_scorer_options(parser, with_seed=False)
    parser.set_defaults(run=run_demo)


def run_demo(args: argparse.Namespace) -> None:
    """Run the demo."""
    if not args.output.lower().endswith((".png", ".jpg", ".jpeg")):
        raise ValueError(f"`--output {args.output}` must end in .png or .jpg.")
    from editreward.cli.demo_groups import run

    run(scorer_of(args), output=args.output, seed=args.seed, worlds=args.worlds)
