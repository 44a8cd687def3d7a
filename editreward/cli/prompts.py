"""`editreward prompts`: what scorers that write their answer ask."""

import argparse

from editreward.cli.commands import Commands
from editreward.cli.paths import reads


def add_prompts(commands: Commands) -> None:
    """Declare `editreward prompts`."""
    parser = commands.add_parser(
        "prompts",
        help="list, show and import prompts of scorers that write",
        description="List, show and import prompt sets: what scorers that write their answer ask.",
    )
    subcommands = parser.add_subparsers(title="commands", dest="subcommand", required=True, metavar="COMMAND")
    _add_list(subcommands)
    _add_show(subcommands)
    _add_import(subcommands)


def _add_list(commands: Commands) -> None:
    parser = commands.add_parser(
        "list",
        help="list the prompt sets that come with the package",
        description="List the prompt sets that come with the package.",
        epilog="Example: editreward prompts list",
    )
    parser.set_defaults(run=run_list)


def _add_show(commands: Commands) -> None:
    parser = commands.add_parser(
        "show",
        help="show what a prompt set asks",
        description="Show the messages of a prompt set as they are sent, with {slots} where images go.",
        epilog="Example: editreward prompts show editreward --instruction 'give the cat a red hat'",
    )
    parser.add_argument("prompts", metavar="NAME_OR_FILE", help="a name of `list`, or a YAML file")
    parser.add_argument("--instruction", default="(the instruction)", help="what to put in (default: %(default)s)")
    parser.set_defaults(run=run_show)


def _add_import(commands: Commands) -> None:
    parser = commands.add_parser(
        "import",
        help="take the texts of published prompts from your copy",
        description="Take the texts of published prompts from your own copy of them. A .py is parsed and never run.",
        epilog="Example: editreward prompts import --from EditScore/editscore/vie_prompts.py --as editscore "
        "--output prompts.yaml",
    )
    parser.add_argument(
        "--from", dest="source", required=True, metavar="FILE", help="a .py with string constants, or a .json"
    )
    parser.add_argument(
        "--as", dest="structure", required=True, metavar="NAME", help="which published prompts they are"
    )
    parser.add_argument("--output", required=True, metavar="FILE", help="the YAML file to write")
    reads(parser, source="file")
    parser.set_defaults(run=run_import)


def run_list(args: argparse.Namespace) -> None:
    """Print a line for each prompt set."""
    from editreward.scorers.prompts.prompt_set import list_prompt_sets, read_content

    about = {name: read_content(name)[1]["about"] for name in list_prompt_sets()}
    width = max(map(len, about))
    for name, text in about.items():
        print(f"{name:{width}}  {text}")


def run_show(args: argparse.Namespace) -> None:
    """Print the messages and the scores of a prompt set."""
    from editreward.scorers.prompts import ImagePart, load_prompt_set

    prompts = load_prompt_set(args.prompts)
    low, high = prompts.scale
    print(f"{prompts.name}: {prompts.about}")
    print(f"Scores {low:g} to {high:g}: {', '.join(prompts.dimensions) or 'none apart from the verdict'}")
    for prompt in prompts.prompts:
        ranges = ", ".join(f"{score.name} {score.low}..{score.high}" for score in prompt.sub_scores)
        print(f"\n== {prompt.name}: {ranges}; {prompt.reduction} of them")
        for message in prompt.render(args.instruction, question=prompts.question("overall")):
            parts = (f"{{{part.slot}}}" if isinstance(part, ImagePart) else part.text for part in message.parts)
            print(f"-- {message.role}\n{''.join(parts)}")


def run_import(args: argparse.Namespace) -> None:
    """Write a prompt set of a structure and of texts."""
    from pathlib import Path

    from editreward.scorers.prompts.importing import import_prompts

    if Path(args.output).exists():
        raise FileExistsError(f"{args.output} is there already. Choose another name, or delete it.")
    made = import_prompts(args.source, args.structure, args.output)
    print(f"{args.output}: {made.name}, {len(made.prompts)} prompts. Use it with --prompts {args.output}.")
