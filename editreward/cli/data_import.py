"""`editreward data import`, `export`, `contamination`, `flag`: published formats, and what to look at in a dataset."""

import argparse
from collections import Counter
from pathlib import Path

from editreward.cli.commands import Commands
from editreward.cli.data_options import add_dataset_options, add_table_options, columns_of, open_splits
from editreward.cli.paths import reads
from editreward.data.registry import FORMATS
from editreward.printing import printable


def add_import(commands: Commands) -> None:
    """Declare `editreward data import`."""
    parser = commands.add_parser(
        "import",
        help="turn a published dataset or benchmark into groups",
        description="Turn a published dataset or benchmark into groups. An interrupted import is continued when the "
        "same command runs again. docs/importing.md describes the formats and what is written.",
        epilog="Example: editreward data import table --input rows.csv --images images/ --output groups/. "
        "Or: editreward data import --format editreward-data --input train.json --images images/ "
        "--output groups/",
    )
    parser.add_argument("table", nargs="?", choices=("table",), metavar="table", help="your own table: --format table")
    parser.add_argument("--format", choices=list(FORMATS), help="the format of the input")
    parser.add_argument(
        "--input",
        required=True,
        nargs="+",
        metavar="FILE_OR_HUB_ID",
        help="CSV, JSON, JSON lines, Parquet or Arrow files, a folder of Parquet files, or the id of a Hub dataset",
    )
    parser.add_argument(
        "--images", metavar="ROOT", help="folder that image paths are relative to (default: that of the first input)"
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="the dataset's folder")
    _add_content_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace what DIR holds, instead of going on with it")
    reads(parser, input="dataset", images="folder")
    parser.set_defaults(run=run_import)


def _add_content_options(parser: argparse.ArgumentParser) -> None:
    """What is read of the input, how, and what it becomes."""
    parser.add_argument("--split", default="train", help="split of a dataset to read (default: %(default)s)")
    parser.add_argument("--config", help="configuration of a dataset that has several")
    parser.add_argument("--revision", help="commit, branch or tag of a Hub dataset")
    parser.add_argument(
        "--output-split",
        metavar="SPLIT",
        help="split to write (default: test for benchmarks, else train)",
    )
    parser.add_argument(
        "--strip", default="", metavar="PREFIX", help="take this off image paths that were written on another machine"
    )
    parser.add_argument(
        "--dimensions",
        nargs="+",
        metavar="NAME",
        help="names of dim1, dim2 ..., or of the columns of a table's scores (default: the two of the paper, and of "
        "editscore-reward-data its four sub-scores)",
    )
    add_table_options(parser)
    parser.add_argument(
        "--scale",
        nargs=2,
        type=float,
        metavar=("LOWEST", "HIGHEST"),
        help="a table's scores are on another scale, which is mapped onto 1..4, such as 0 10",
    )
    parser.add_argument(
        "--on-fault",
        choices=("stop", "list"),
        help="what an error in the input does: stop the import, or leave out what it concerns and list it in "
        "import_faults.jsonl (default: stop; list for a table)",
    )
    parser.add_argument("--origin", help="value of the column origin (default: the format's name)")
    parser.add_argument("--language", help="value of the column language (default: zh or en, by the script)")
    parser.add_argument(
        "--headers-only", action="store_true", help="read only the headers of images: faster, misses truncated files"
    )


def run_import(args: argparse.Namespace) -> None:
    """Import and print what was written."""
    from editreward.data.importers import ImportOptions, Source, import_dataset

    chosen = {args.table, args.format} - {None}
    if len(chosen) != 1:
        raise ValueError("say which format the input has: `editreward data import table` for your own, or --format.")
    (format_name,) = chosen
    options = ImportOptions(
        images=args.images,
        columns=columns_of(args.column),
        strip=args.strip,
        split=args.output_split,
        dimensions=args.dimensions or (),
        on_fault=args.on_fault or ("list" if format_name == "table" else "stop"),
        origin=args.origin,
        language=args.language,
        decode=not args.headers_only,
        overwrite=args.overwrite,
        scale=None if args.scale is None else (args.scale[0], args.scale[1]),
    )
    inputs = [
        Source(name, args.split, args.config, args.revision, args.encoding, args.separator) for name in args.input
    ]
    report = import_dataset(FORMATS[format_name], inputs, args.output, options)
    rows = ", ".join(f"{count:,} of {label}" for label, count in report["rows"].items())
    print(f"Rows read    {rows}")
    items = f", {report['items']:,} benchmark items" if "items" in report else ""
    print(f"Written      {report['groups']:,} groups with {report['candidates']:,} candidates{items}")
    for severity in ("errors", "notes"):
        for kind, count in report[severity].items():
            print(f"{severity.capitalize():<12} {count:,} {kind}")
    if report["errors"] or report["notes"]:
        print(f"Listed in    {Path(args.output) / 'import_faults.jsonl'}")
    print(f"Dataset      {args.output}, split {report['split']}")


def add_export(commands: Commands) -> None:
    """Declare `editreward data export`."""
    parser = commands.add_parser(
        "export",
        help="write groups as the published pair JSON",
        description="Write groups as EditReward-Data's pair JSON with a folder of images, for trainers that read that "
        "format. Importing it gives the same groups.",
        epilog="Example: editreward data export groups/ --split train --format editreward-data --output pairs/",
    )
    add_dataset_options(parser)
    parser.add_argument("--format", required=True, choices=("editreward-data",), help="the format to write")
    parser.add_argument("--output", required=True, metavar="DIR", help="the folder to write")
    parser.add_argument(
        "--ties",
        choices=("once", "both", "drop"),
        default="once",
        help="pairs with equal sums: once, in both orders, or not at all (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a pairs.json in DIR")
    parser.set_defaults(run=run_export)


def run_export(args: argparse.Namespace) -> None:
    """Export and print the counts."""
    from tqdm import tqdm

    from editreward.data.export import PAIRS_FILE, export_pairs
    from editreward.data.sources import common_dimensions, raw_groups

    splits = open_splits(args)
    dimensions = common_dimensions(splits)
    rows = (row for dataset in splits.values() for row in raw_groups(dataset))
    rows = tqdm(rows, desc="Exporting", unit=" groups", disable=None, leave=False)
    counts = export_pairs(rows, args.output, dimensions, args.ties, args.overwrite)
    print(
        f"Wrote {Path(args.output) / PAIRS_FILE}: {counts['pairs']:,} pairs ({counts['ties']:,} ties) of "
        f"{counts['groups']:,} groups with {counts['candidates']:,} candidates."
    )
    if counts["groups_without_pairs"]:
        print(f"{counts['groups_without_pairs']:,} groups have no pair and are in groups.jsonl only.")


def add_contamination(commands: Commands) -> None:
    """Declare `editreward data contamination`."""
    parser = commands.add_parser(
        "contamination",
        help="find what a training set and a benchmark share",
        description="Find source images (by perceptual hash) and instructions (normalised) that two datasets of "
        "groups share. Exits with status 1 if they share any.",
        epilog="Example: editreward data contamination groups/ bench/ --output shared.json",
    )
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), help="a folder, a Parquet file, or the id of a Hub dataset")
    for name in ("a", "b"):
        parser.add_argument(
            f"--split-{name}", nargs="+", metavar="SPLIT", help=f"splits of {name.upper()} to read (default: all)"
        )
    parser.add_argument(
        "--near-bits",
        type=int,
        metavar="N",
        help="how many of the 64 bits of two perceptual hashes may differ; more finds more, and more that is not so",
    )
    parser.add_argument("--output", metavar="FILE", help="write everything found, as JSON")
    parser.add_argument("--show", type=int, default=10, metavar="N", help="how many to print (default: %(default)s)")
    reads(parser, a="dataset", b="dataset")
    parser.set_defaults(run=run_contamination)


def run_contamination(args: argparse.Namespace) -> int:
    """Print what is shared. Returns 1 if anything is."""
    from dataclasses import asdict

    from tqdm import tqdm

    from editreward.curation.contamination import shared_instructions, shared_sources, take_prints
    from editreward.data.images import NEAR_BITS
    from editreward.data.sources import raw_groups, stream_splits
    from editreward.files import write_json

    if args.output:
        Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    prints = []
    for name, splits in ((args.a, args.split_a), (args.b, args.split_b)):
        rows = (row for dataset in stream_splits(name, splits).values() for row in raw_groups(dataset))
        prints.append(take_prints(tqdm(rows, desc=f"Reading {name}", unit=" groups", disable=None, leave=False)))
    a, b = prints
    near_bits = NEAR_BITS if args.near_bits is None else args.near_bits
    sources, instructions = shared_sources(a, b, near_bits), shared_instructions(a, b)
    if args.output:
        report = {
            "a": {"name": args.a, "groups": a.groups, "unreadable": a.unreadable},
            "b": {"name": args.b, "groups": b.groups, "unreadable": b.unreadable},
            "near_bits": near_bits,
            "sources": [asdict(shared) for shared in sources],
            "instructions": [asdict(shared) for shared in instructions],
        }
        write_json(args.output, report)
    for name, one in ((args.a, a), (args.b, b)):
        unreadable = f", {len(one.unreadable):,} source images unreadable and not compared" if one.unreadable else ""
        print(f"{name}: {one.groups:,} groups{unreadable}")
    groups = len({shared.b for shared in sources})
    identical, both = (sum(getattr(one, name) for one in sources) for name in ("identical", "same_instruction"))
    print(
        f"Source images: {len(sources):,} pairs ({identical:,} identical, {both:,} with the same instruction); "
        f"they concern {groups:,} of {b.groups:,} groups of {args.b}."
    )
    for shared in sorted(sources, key=lambda one: one.bits)[: args.show]:
        likeness = "identical" if shared.identical else f"{shared.bits} bits differ"
        same = ", same instruction" if shared.same_instruction else ""
        print(f"  {printable(shared.a)}  {printable(shared.b)}  {likeness}{same}")
    concerned = sum(len(shared.b) for shared in instructions)
    print(f"Instructions: {len(instructions):,}; they concern {concerned:,} of {b.groups:,} groups of {args.b}.")
    for text in instructions[: args.show]:
        print(f"  {len(text.a):,} and {len(text.b):,} groups: {printable(text.instruction)}")
    return int(bool(sources or instructions))


def add_flag(commands: Commands) -> None:
    """Declare `editreward data flag`."""
    parser = commands.add_parser(
        "flag",
        help="list rows with people or unsafe text for review",
        description="List the groups whose texts have words for people or for unsafe content, or whose images have "
        "faces, for a person to look at. Nothing is removed.",
        epilog="Example: editreward data flag groups/ --output flags.jsonl --filter my_rules.py:wants_review",
    )
    add_dataset_options(parser)
    parser.add_argument("--output", default="flags.jsonl", metavar="FILE", help="the report (default: %(default)s)")
    parser.add_argument(
        "--words", metavar="FILE", help='JSON object of lists of words instead of the default: {"people": ["person"]}'
    )
    parser.add_argument(
        "--faces",
        action=argparse.BooleanOptionalAction,
        help="count faces in images (default: if dlib is installed: pip install 'editreward[faces]')",
    )
    parser.add_argument("--sources-only", action="store_true", help="count faces in source images only")
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="FILE.py:FUNCTION",
        help="a function that takes a group and returns why it should be looked at, or None; may be repeated",
    )
    reads(parser, words="file")
    parser.set_defaults(run=run_flag)


def run_flag(args: argparse.Namespace) -> None:
    """Write the report and print its counts."""
    from tqdm import tqdm

    from editreward.curation.flags import WORDS, face_counter, flag_groups, load_filter, read_words
    from editreward.data.sources import raw_groups
    from editreward.files import NO_UNICODE, atomic_file

    counter = None if args.faces is False else face_counter()
    if args.faces and counter is None:
        raise ValueError("--faces needs dlib: pip install 'editreward[faces]'.")
    words = read_words(args.words) if args.words else WORDS
    filters = [load_filter(name) for name in args.filter]
    rows = (row for dataset in open_splits(args).values() for row in raw_groups(dataset))
    rows = tqdm(rows, desc="Flagging", unit=" groups", disable=None, leave=False)
    counts: Counter[str] = Counter()
    total = flagged = 0
    # A list that ends early looks like a complete one.
    with atomic_file(args.output) as part, part.open("w", encoding="utf-8", errors=NO_UNICODE) as report:
        for group in flag_groups(rows, words, counter, filters, not args.sources_only):
            total += 1
            if group.flags:
                flagged += 1
                report.write(group.to_json() + "\n")
                counts.update({flag.kind for flag in group.flags})
    print(f"{flagged:,} of {total:,} groups to look at, listed in {args.output}.")
    for kind, count in sorted(counts.items()):
        print(f"{count:8,} {kind}")
    if counter is None:
        print(
            "Faces were not counted"
            + ("." if args.faces is False else ": pip install 'editreward[faces]' to count them.")
        )
