"""`editreward data check`: list the faults of a dataset."""

import argparse
import json

from editreward.cli.commands import Commands
from editreward.cli.data_options import add_dataset_options, open_splits


def add_check(commands: Commands) -> None:
    """Declare `editreward data check`."""
    parser = commands.add_parser(
        "check",
        help="list every fault of a dataset by its row",
        description="List every fault of a dataset by its row, count them, and exit with status 1 if there is any. "
        "docs/data.md says what each kind means.",
        epilog="Example: editreward data check groups/ --allow candidate_equals_source",
    )
    add_dataset_options(parser)
    parser.add_argument(
        "--allow", nargs="+", default=[], metavar="KIND", help="kinds that are listed but do not count as failure"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run_check)


def run_check(args: argparse.Namespace) -> int:
    """Print the faults. Returns 1 if there is one that is not allowed."""
    from tqdm import tqdm

    from editreward.curation.check import FAULTS, CheckReport, fault_as_json, find_faults
    from editreward.data.sources import raw_groups

    unknown = [kind for kind in args.allow if kind not in FAULTS]
    if unknown:
        raise ValueError(f"--allow: {unknown[0]!r} is no kind of fault; these are: {', '.join(FAULTS)}")
    splits = {
        split: tqdm(raw_groups(dataset), desc=split, unit=" groups", disable=None, leave=False)
        for split, dataset in open_splits(args).items()
    }
    report = CheckReport()
    faults = []
    for fault in find_faults(splits, report):
        if args.json:
            faults.append(fault_as_json(fault))
        else:
            tqdm.write(str(fault))
    failed = any(kind not in args.allow for kind in report.counts)
    counts = {kind: report.counts[kind] for kind in FAULTS if report.counts[kind]}
    if args.json:
        result = {
            "dataset": args.dataset,
            "groups": report.groups,
            "candidates": report.candidates,
            "counts": counts,
            "allowed": args.allow,
            "ok": not failed,
            "faults": faults,
        }
        print(json.dumps(result, ensure_ascii=False, indent=2, allow_nan=False))
    else:
        groups = ", ".join(f"{split} {count:,}" for split, count in report.groups.items())
        print(f"{sum(report.groups.values()):,} groups ({groups}) with {report.candidates:,} candidates.")
        for kind, count in counts.items():
            print(f"{count:8,} {kind}{' (allowed)' if kind in args.allow else ''}: {FAULTS[kind]}")
        print("No faults." if not counts else f"{sum(counts.values()):,} faults.")
    return int(failed)
