"""`editreward train`: train a reward model by a recipe that comes with the package, or by one's own."""

import argparse
from pathlib import Path
from typing import Any

from editreward.cli.commands import Commands

RECIPES = (
    "tiny",
    "tiny_more",
    "paper",
    "published",
    "groups",
    "lora_80gb",
    "lora_24gb",
    "editscore_tiny",
    "editscore_qwen2_5_vl_7b",
    "editscore_qwen3_vl_8b",
)
"""Recipes that come with the package, each a file `configs/NAME.yaml`; with `prompts`: of generative scorers."""


def add_train(commands: Commands) -> None:
    """Declare `editreward train`."""
    parser: Any = commands.add_parser(
        "train",
        help="train a reward model or a generative scorer by a recipe",
        description="Train in this process: a reward model or, by a recipe with `prompts`, a generative scorer. Every "
        "option but these is one of the training script's (python -m editreward.training.script --help, or "
        "editreward.training.generative) and overrules the recipe.",
        epilog="Example: editreward train --config tiny --output_dir runs/mine --max_steps 100",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="NAME_OR_FILE",
        help=f"a recipe that comes with the package ({', '.join(RECIPES)}), or a YAML file",
    )
    parser.takes_any_option = True
    parser.set_defaults(run=run_train, shows_messages=True)


def run_train(args: argparse.Namespace) -> None:
    """Train."""
    words = script_arguments(args.config, args.options)
    if is_generative(Path(words[1])):
        from editreward.training.generative.script import main
    else:
        from editreward.training.script import main

    main(words)


def is_generative(recipe: Path) -> bool:
    """Whether a recipe trains a generative scorer. Whatever is wrong with the file is for the script to say."""
    import yaml

    from editreward.yaml_files import load_yaml

    try:
        content = load_yaml(recipe.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        return False
    return isinstance(content, dict) and "prompts" in content


def script_arguments(config: str, options: list[str]) -> list[str]:
    """What the training script is called with.

    Args:
        config: name of a recipe, or a file.
        options: all other words of the command line.

    Raises:
        ValueError: there is neither such a recipe nor such a file.
    """
    if config in RECIPES:
        return [*bundled_recipe(config), *options]
    if not Path(config).is_file():
        raise ValueError(
            f"`--config {config}` is neither a file nor a recipe that comes with the package: {', '.join(RECIPES)}."
        )
    return ["--config", config, *options]


def bundled_recipe(name: str) -> list[str]:
    """Options that name a recipe, and the model that it starts from where that comes with the package, too."""
    import yaml

    from editreward.resources import resource

    path = resource(f"configs/{name}.yaml")
    model = yaml.safe_load(path.read_text(encoding="utf-8"))["model_name_or_path"]
    starts_bundled = model.startswith("checkpoints/")
    return ["--config", str(path), *(["--model_name_or_path", str(resource(model))] if starts_bundled else [])]
