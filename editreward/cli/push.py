"""`editreward push`: publish a model, or a Space that shows one, on the Hub."""

import argparse
import tempfile
from pathlib import Path

from editreward.cli.commands import Commands
from editreward.cli.paths import reads


def add_push(commands: Commands) -> None:
    """Declare `editreward push`."""
    parser = commands.add_parser(
        "push",
        help="publish a model, or a Space that shows it, on the Hub",
        description="Publish a model, or a Space that shows it, on the Hub. Log in first: hf auth login.",
        epilog="Example: editreward push model --model runs/editreward-7b --repo-id org/EditReward",
    )
    subcommands = parser.add_subparsers(title="commands", dest="subcommand", required=True, metavar="COMMAND")
    add_push_model(subcommands)
    add_push_space(subcommands)


def add_push_model(commands: Commands) -> None:
    """Declare `editreward push model`."""
    parser = commands.add_parser(
        "model",
        help="weights, code, processor and card of a model",
        description="Load a model, to be sure that others can, and push it: weights as safetensors, code files, "
        "processor, and a card with metadata and results of benchmarks.",
        epilog="Example: editreward push model --model runs/editreward-7b --repo-id org/EditReward "
        "--license apache-2.0 --results results/*/result.json",
    )
    parser.add_argument("--model", required=True, metavar="FOLDER_OR_ID", help="the model or adapter")
    _add_repository_options(parser)
    parser.add_argument(
        "--license", help="the Hub's identifier of a licence, such as apache-2.0 (default: the card's)"
    )
    parser.add_argument("--base-model", metavar="ID", help="what it was trained from (default: the card's)")
    parser.add_argument("--datasets", nargs="+", default=[], metavar="ID", help="what it was trained on")
    parser.add_argument(
        "--results", nargs="+", default=[], metavar="FILE", help="result.json files of `editreward bench --output`"
    )
    parser.add_argument(
        "--max-shard-size", default="5GB", metavar="SIZE", help="of a file of weights (default: %(default)s)"
    )
    reads(parser, model="model", results="file")
    parser.set_defaults(run=run_push_model)


def run_push_model(args: argparse.Namespace) -> None:
    """Prepare a model and push it."""
    import transformers

    from editreward.hub_ids import check_hub_id
    from editreward.publishing.models import REPLACED_FILES, UNKNOWN_LICENSE, CardOptions, write_model
    from editreward.publishing.uploads import upload

    transformers.logging.disable_progress_bar()
    check_hub_id(args.repo_id)
    options = CardOptions(args.license, args.base_model, args.datasets, args.results)
    with tempfile.TemporaryDirectory(prefix="editreward-") as temporary:
        folder = Path(args.dry_run or Path(temporary) / "model")
        card = write_model(args.model, folder, args.repo_id, options, max_shard_size=args.max_shard_size)
        stated = card.data.to_dict()
        if stated["license"] == UNKNOWN_LICENSE:
            print("Note: the card states no licence; name one with --license.")
        if not stated.get("model-index"):
            print("Note: the card has no results; run `editreward bench --output` and pass its --results.")
        if args.dry_run:
            print(f"Wrote {folder}. Nothing was pushed.")
            return
        address = upload(
            folder,
            args.repo_id,
            repo_type="model",
            message=args.message or "Upload model",
            private=args.private,
            revision=args.revision,
            create_pr=args.create_pr,
            replaces=REPLACED_FILES,
        )
    print(f"Pushed {address}")


def add_push_space(commands: Commands) -> None:
    """Declare `editreward push space`."""
    parser = commands.add_parser(
        "space",
        help="a Gradio Space that scores and ranks edits",
        description="Push a Gradio Space that scores and ranks edits: the app, this package and its bundled model.",
        epilog="Example: editreward push space --repo-id org/EditReward-demo --model org/EditReward",
    )
    _add_repository_options(parser)
    parser.add_argument("--model", metavar="ID", help="the model on the Hub that it shows (default: the bundled one)")
    parser.add_argument("--model-revision", metavar="REVISION", help="commit, branch or tag of that model")
    parser.set_defaults(run=run_push_space)


def run_push_space(args: argparse.Namespace) -> None:
    """Prepare the Space and push it."""
    from editreward.hub_ids import check_hub_id
    from editreward.publishing.spaces import MODEL_VARIABLE, REVISION_VARIABLE, write_space
    from editreward.publishing.uploads import upload

    for repo_id in filter(None, (args.repo_id, args.model)):
        check_hub_id(repo_id)
    if args.model_revision and not args.model:
        raise ValueError("--model-revision is that of a --model, which is missing")
    variables = {MODEL_VARIABLE: args.model, REVISION_VARIABLE: args.model_revision}
    variables = {name: value for name, value in variables.items() if value}
    with tempfile.TemporaryDirectory(prefix="editreward-") as temporary:
        folder = Path(args.dry_run or Path(temporary) / "space")
        write_space(folder, args.model)
        if args.dry_run:
            print(f"Wrote {folder}. Nothing was pushed.")
            for name, value in variables.items():
                print(f"Variable of the Space: {name}={value}")
            return
        address = upload(
            folder,
            args.repo_id,
            repo_type="space",
            message=args.message or "Upload Space",
            private=args.private,
            revision=args.revision,
            create_pr=args.create_pr,
            replaces=("*",),  # the upload is complete
            variables=variables,
        )
    print(f"Pushed {address}")


def _add_repository_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repo-id", required=True, metavar="ORG/NAME", help="the repository on the Hub")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", metavar="BRANCH", help="push to this branch, made if it is missing")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument(
        "--dry-run", metavar="FOLDER", help="write what would be pushed into this new folder, and push nothing"
    )
