"""What holds for every command: help, examples, completion, what is imported, and `editreward env`."""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from editreward import __version__
from editreward.cli import command as cli
from editreward.cli.environment import environment

# What makes a command slow to answer; and any other package that is not Python's own.
HEAVY = {"torch", "transformers", "datasets", "numpy", "PIL", "huggingface_hub", "trl", "peft", "pandas", "scipy"}


Command = tuple[tuple[str, ...], argparse.ArgumentParser]


def commands(parser: argparse.ArgumentParser, path: tuple[str, ...] = ()) -> Iterator[Command]:
    """Every command that does something, not those that only have others."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield path, parser
    for group in groups:
        for name, command in group.choices.items():
            yield from commands(command, (*path, name))


COMMANDS = dict(commands(cli.build_parser()))
IDS = [" ".join(path) for path in COMMANDS]


def test_the_help_fits_a_screen(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = cli.build_parser().format_help().splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert listed == list(dict.fromkeys(path[0] for path in COMMANDS)), "a line for each command"


@pytest.mark.parametrize("path", COMMANDS, ids=IDS)
def test_every_command_has_an_example_that_it_accepts(path):
    words = shlex.split((COMMANDS[path].epilog or "").split(". ")[0])
    assert words[: 2 + len(path)] == ["Example:", "editreward", *path]
    arguments = cli.build_parser().parse_args(words[2:])
    assert callable(arguments.run)


@pytest.mark.parametrize("path", COMMANDS, ids=IDS)
def test_every_command_has_debug_and_one_line_errors(path, capsys):
    assert "--debug" in COMMANDS[path].format_help()
    with pytest.raises(SystemExit) as stop:
        cli.main([*path, "--no-such-option"])
    out, err = capsys.readouterr()
    assert (stop.value.code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith(f"editreward {' '.join(path)}: error: ") or err.startswith("editreward: error: ")


@pytest.mark.parametrize("arguments", [["--help"], ["score", "--help"], ["--version"], ["nonsense"]])
def test_help_imports_nothing_but_python(arguments):
    code = f"""
import sys, editreward.cli.command
try:
    editreward.cli.command.main({arguments})
except SystemExit:
    pass
found = {{name.split(".")[0] for name in sys.modules}}
sys.stdout = sys.__stderr__
print("RESULT", len(sys.modules), *sorted(found - set(sys.stdlib_module_names)))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, *packages = result.stderr.split("RESULT")[1].split()
    found = {name for name in packages if not name.startswith("_")}
    assert not found & HEAVY
    assert found <= {"editreward", "research"}, "only our own, and of it only what declares commands"
    assert int(count) < 250


def test_env_tells_versions_devices_and_attention_and_nothing_private(capsys, monkeypatch):
    import torch
    import transformers

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert cli.main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["editreward"] == __version__
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["transformers"] == transformers.__version__
    assert {"cpu", "cuda", "mps"} <= set(found["devices"])
    assert found["attention"]["sdpa"] == "available"
    assert found == environment()
    assert cli.main(["env"]) == 0
    text = capsys.readouterr().out
    for section in found.values():
        for name, value in section.items():
            assert any(name in line and value in line for line in text.splitlines())
    for private in ("hf_secret", os.path.expanduser("~"), os.getcwd()):
        assert private not in text


COMPLETE = r"""
eval "$1"
COMP_WORDS=("${@:2}")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
COMP_LINE="${COMP_WORDS[*]}"
COMP_POINT=${#COMP_LINE}
$(complete -p editreward | sed 's/.*-F \([^ ]*\).*/\1/') editreward
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sc"], {"score"}),
        (["data", "b"], {"build-bench"}),
        (["push", "model", "--max"], {"--max-shard-size"}),
        (["convert", "--head-type", "s"], {"shared", "single"}),
        (["score", "--source", "ca"], {"cat.png"}),
        (["merge", "--output", "fo"], {"folder"}),
    ],
)
def test_bash_completes_commands_options_choices_and_files(words, expected, capsys, tmp_path):
    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    (tmp_path / "cat.png").touch()
    (tmp_path / "folder").mkdir()
    command = ["bash", "--norc", "-c", COMPLETE, "bash", script, "editreward", *words]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert {word.strip() for word in result.stdout.splitlines()} == expected


def test_zsh_and_tcsh_have_scripts_too(capsys):
    for shell in ("zsh", "tcsh"):
        assert cli.main(["completion", shell]) == 0
        assert "build-bench" in capsys.readouterr().out


def test_train_passes_on_what_it_does_not_know_and_finds_bundled_recipes(tmp_path, capsys):
    from editreward.cli.train import RECIPES, script_arguments
    from editreward.resources import resource

    words = ["train", "--seed", "3", "--config", "tiny", "--max_steps", "2"]
    args = cli.build_parser().parse_args(words)
    assert (args.config, args.options) == ("tiny", ["--seed", "3", "--max_steps", "2"])
    recipe, model = resource("configs/tiny.yaml"), resource("checkpoints/tiny-vlm")
    assert script_arguments("tiny", ["--seed", "3"]) == [
        *("--config", str(recipe), "--model_name_or_path", str(model), "--seed", "3")
    ]
    assert script_arguments("paper", [])[2:] == []
    (tmp_path / "mine.yaml").touch()
    assert script_arguments(str(tmp_path / "mine.yaml"), []) == ["--config", str(tmp_path / "mine.yaml")]
    with pytest.raises(ValueError, match="neither a file nor a recipe .*: tiny, "):
        script_arguments("mine", [])
    for name in RECIPES:
        assert script_arguments(name, [])[0] == "--config"
    with pytest.raises(SystemExit):
        cli.build_parser().parse_args(["train", "--conf", "tiny"])
    assert "--config" in capsys.readouterr().err
