"""`editreward calibrate`: put any scorer onto the scale of people's ratings."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editreward.cli.commands import Commands
from editreward.cli.paths import reads
from editreward.cli.scorer_options import add_scorer_options, options_of_scores, scorer_of
from editreward.groups.rows import GroupRow
from editreward.scorers.registry import SCORERS

if TYPE_CHECKING:
    from editreward.scorers.calibrating import Fit


def add_calibrate(commands: Commands) -> None:
    """Declare `editreward calibrate`."""
    parser = commands.add_parser(
        "calibrate",
        help="fit a scorer's scale and spread on annotated groups",
        description="Fit, on annotated groups, the map of a scorer's numbers onto the 1..4 scale and the factor of "
        "its standard deviations, by dimension and overall, and save them: a model's in its own folder, any other's "
        "in a YAML file that is a scorer, too. Of a scorer that writes its scores in several passes, also what their "
        "spread means. 24 groups or more are needed for the standard deviations.",
        epilog="Example: editreward calibrate --model runs/mine --data annotations --split validation",
    )
    parser.add_argument("--data", required=True, help="annotated groups: a folder, Parquet file, Hub id, 'simulated'")
    parser.add_argument("--split", default="validation", help="(default: %(default)s)")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N groups only; 'simulated' needs it")
    parser.add_argument(
        "--output", metavar="FILE.yaml", help="scorer file to write; without it a model's own config.json is changed"
    )
    add_scorer_options(parser)
    reads(parser, data="dataset")
    parser.set_defaults(run=run_calibrate)


def run_calibrate(args: argparse.Namespace) -> None:
    """Fit, save and report."""
    folder = Path(args.scorer or "")
    is_model = args.scorer is not None and args.scorer not in SCORERS and (folder / "config.json").is_file()
    if args.output is None and not is_model:
        raise ValueError(
            f"`--output FILE.yaml` is needed: {args.scorer or 'the bundled model'} is no folder of a model."
        )
    if args.output is not None and Path(args.output).suffix not in (".yaml", ".yml"):
        raise ValueError(f"`--output {args.output}` must end in .yaml.")
    if args.output is not None:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)  # before all that is slow

    from editreward.scorers.calibrating import fit_scorer, save_as_yaml, save_in_model

    rows = labelled_rows(args)
    scorer: Any = scorer_of(args)
    if hasattr(scorer, "use_calibration"):
        scorer.use_calibration(None)
    fit = fit_scorer(scorer, rows)
    if args.output is None:
        save_in_model(folder, fit.calibration)
    else:
        save_as_yaml(Path(args.output), args.scorer or "editreward", fit, options_of_scores(args))
    print(summary(scorer.name, fit))
    print(f"\nSaved in {args.output or folder / 'config.json'}.")


def labelled_rows(args: argparse.Namespace) -> Iterator[GroupRow]:
    """The rows to fit on, images as they are stored."""
    from editreward.data.sources import numbered_rows

    if args.limit is not None and args.limit < 1:
        raise ValueError(f"`--limit` must be at least 1, not {args.limit}.")
    return (row for _, row in numbered_rows(args.data, args.split, 0, 1, args.limit, None))


def summary(name: str, fit: "Fit") -> str:
    """What `editreward calibrate` prints."""
    lines = [
        f"{name}, on {fit.groups} groups; errors on groups that the fit did not see, in points of 1..4:",
        "",
        f"{'':24}{'rmse':>6}{'of mean':>9}{'slope':>9}  {'within 50, 80, 95 %':>20}  {'std tells errors':>16}",
    ]
    for dimension, error in fit.errors.items():
        line = fit.calibration[dimension]
        told, correlation = "-", "-"
        if "std_factor" in line:
            shares = (error.coverage_50, error.coverage_80, error.coverage)
            told = ", ".join(f"{100 * share:.0f}" for share in shares) + " %"
            correlation = f"{error.std_correlation:.2f}"
        lines.append(
            f"{dimension.replace('_', ' '):24}{error.rmse:6.2f}{error.rmse_of_mean:9.2f}{line['slope']:9.3g}"
            f"  {told:>20}  {correlation:>16}"
        )
    if any("std_factor" not in line for line in fit.calibration.values()):
        lines += [
            "",
            "Too few groups for standard deviations (24 are needed), or too many of them are nearly 0: none are "
            "calibrated.",
        ]
    if fit.link is not None:
        link, variance = fit.link, fit.link.variance
        lines += [
            "",
            f"Link over {link.pairs} pairs: temperature {link.temperature:.3g}, variance {variance.constant:.3g} + "
            f"{variance.slope:.3g} x pass_std^2 / n, log loss {link.log_loss:.3f} (a coin's: 0.693).",
        ]
        if link.variance_share < 1:
            lines.append(
                "Pairs are in order more often than the errors of single scores allow: the link takes "
                f"{link.variance_share:.2g} of their variance."
            )
    lines += [f"{name} is left out: {reason}." for name, reason in fit.left_out.items()]
    if fit.unscored:
        lines.append(f"{fit.unscored} candidates got no score.")
    return "\n".join(lines)
