"""Compare variants of the training over seeds: train and evaluate the runs of a config, and write a report.

    python -m research.ablation --config configs/ablation_tiny.yaml --jobs 2

Finished runs are kept in the config's results file and never repeated; a stopped run goes on from its checkpoint.
Start it in the repository's root.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from research.ablation.plan import Ablation, read_ablation, rehearsal
from research.ablation.report import write_report
from research.ablation.running import Results, carry_out


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m research.ablation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, metavar="FILE.yaml", help="recipe, seeds and studies")
    parser.add_argument("--study", nargs="+", metavar="NAME", help="only the runs of these studies")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: %(default)s)")
    parser.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="N",
        help="threads of each run (default: %(default)s); tiny models do best with as many jobs as cores",
    )
    parser.add_argument("--keep-models", action="store_true", help="keep trained models in the config's folder")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--report", action="store_true", help="only write the report from the results so far")
    action.add_argument("--list", action="store_true", help="only list the runs, and which have finished")
    action.add_argument(
        "--rehearse", action="store_true", help="two steps of every arm, nothing recorded: shows that all run"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out the ablation, or what else is asked for. Returns 1 if a run failed, 2 where something is wrong."""
    args = build_parser().parse_args(arguments)
    try:
        return run(args)
    except (ValueError, OSError) as error:
        print(f"research.ablation: error: {error}", file=sys.stderr)
        return 2


def run(args: argparse.Namespace) -> int:
    """Do what the options ask for."""
    if args.jobs < 1 or args.threads < 1:
        raise ValueError("--jobs and --threads must be at least 1.")
    ablation = read_ablation(args.config)
    unknown = sorted(set(args.study or []) - set(ablation.studies))
    if unknown:
        raise ValueError(f"{args.config} has no study {unknown[0]!r}, only {', '.join(ablation.studies)}.")
    if args.report:
        return report(ablation, args.config)
    if args.list:
        finished = Results(ablation.results).read()
        for run, arms in ablation.runs(tuple(args.study) if args.study else None).items():
            print(f"{run.key} seed {run.seed} {'done   ' if run.key in finished else 'missing'} {', '.join(arms)}")
        return 0
    if args.rehearse:
        folder = Path(ablation.folder) / "rehearsal"
        shutil.rmtree(folder, ignore_errors=True)
        status = carry_out_and_report(rehearsal(ablation, folder), args)
        if status == 0:
            shutil.rmtree(folder)
        return status
    return carry_out_and_report(ablation, args)


def carry_out_and_report(ablation: Ablation, args: argparse.Namespace) -> int:
    """Do the missing runs, then write the report. Returns 1 if a run failed."""
    failed = carry_out(
        ablation, args.study, args.jobs, args.threads, args.keep_models, say=lambda text: print(text, flush=True)
    )
    report(ablation, args.config)
    if failed:
        print(f"{len(failed)} failed: {', '.join(failed)}. The same command tries them again.", file=sys.stderr)
    return 1 if failed else 0


def report(ablation: Ablation, config: str) -> int:
    """Write the report from the results so far."""
    files = write_report(ablation, Results(ablation.results).read(), config)
    print(f"Wrote {ablation.report} and {len(files) - 1} figures.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
