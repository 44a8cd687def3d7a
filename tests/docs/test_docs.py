"""What README, docs and model cards say is true: code is run or checked, commands are parsed, names and links exist.

Python blocks are run in order, a page in one namespace and a folder of its own. Command lines are read by the parsers
of the commands that they call, and those of `editreward` are run as well. What is not run is in `NOT_RUN` with the
reason; a new line that is neither run nor in the list fails.
"""

import argparse
import ast
import importlib
import importlib.util
import itertools
import json
import os
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import datasets
import huggingface_hub.constants
import pytest
import torch.distributed.run
import yaml
from accelerate.commands.launch import launch_command_parser
from markdown_it import MarkdownIt
from packaging.requirements import Requirement
from peft import get_peft_model
from transformers import dynamic_module_utils
from trl import ModelConfig, TrlParser

import train_trl
from editreward.cli.main import build_parser, main
from editreward.data.sources import load_groups
from editreward.data.storage import write_groups
from editreward.scorers.loading import bundled_model
from editreward.simulation import simulate_group
from editreward.training.adapters import adapter_config, save_configuration
from editreward.training.datasets import GroupDataArguments
from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor
from research.ablation.__main__ import build_parser as ablation_parser

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("checkpoints/*/README.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
EXAMPLE = ROOT / "examples" / "simulated-edits"
GOLDEN = Path(__file__).parents[1] / "golden"

# Lines of shell that are parsed and not run, by how they begin; the longest that fits counts.
NOT_RUN = {
    "editreward annotate serve": "a server, which runs until it is stopped: tests/annotation/test_annotation_app.py",
    "editreward annotate report": "of ratings that people gave: tests/annotation/test_annotation_report.py",
    "editreward annotate export": "of ratings that people gave: tests/annotation/test_annotation_database.py",
    "editreward bench": "of hundreds of groups, most of them downloads: tests/benchmarks",
    "editreward data build-bench": "of ratings that people gave: tests/curation/test_build_bench.py",
    "editreward data import --format editreward-bench": "of a download: tests/data/test_importers.py",
    "editreward data publish annotated/ --repo-id org/My-Edits --license cc-by-4.0": "to the Hub, where it goes "
    "without --dry-run: tests/publishing/test_data_publish.py",
    "editreward generate": "by downloaded editors, or minutes: tests/editors/test_generation.py",
    "editreward push": "to the Hub: tests/publishing/test_push.py",
}
# Python blocks that are compiled and not run, by page and first line.
NOT_RUN_PYTHON = {
    (
        "docs/space.md",
        "from gradio_client import Client, handle_file",
    ): "of a Space that runs: tests/space/test_space_app.py",
}
# Other programs, which are not here.
FOREIGN = {
    "deepspeed": "the published package's command",
    "git": "no command of ours",
    "hf": "huggingface_hub's own command",
}
# Blocks that are no code, by page and first line.
PICTURES = {
    ("docs/generation.md", "candidates/settings.json"): "the files of a folder",
    ("docs/tiny_vlm.md", "system turn, rubric,"): "a tree of segments",
}
# What a command exits with where it is not 0.
STATUS = {"editreward data contamination": 1}

SHELL = ("bash", "sh", "shell", "console")
PROGRAMS = ("editreward", "accelerate", "torchrun", "python", "pip", "make", "eval", "export", *FOREIGN)


# Reading


@cache
def tokens(page):
    return MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text(encoding="utf-8"))


def blocks(page):
    """Code of a page: line, language ('' for indented blocks) and text."""
    return [
        (token.map[0] + 1, token.info.split()[0] if token.info else "", token.content)
        for token in tokens(page)
        if token.type in ("fence", "code_block")
    ]


def inline(page, kind):
    return [child for token in tokens(page) for child in token.children or () if child.type == kind]


def is_picture(page, text):
    return any(name == page and text.startswith(start) for name, start in PICTURES)


def command_lines(page):
    """Command lines of a page, each with its number; lines of options alone are those of `train_trl.py`."""
    found = []
    for number, language, text in blocks(page):
        if (language and language not in SHELL) or is_picture(page, text):
            continue
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(re.sub(r"[\[\]]", " ", line) if "DATASET" in line else line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                words.pop(0)
            if words and words[0] == "eval":
                words = shlex.split(re.fullmatch(r"\$\((.*)\)", words[1])[1])
            if words and words[0].startswith("--"):
                words = ["python", "train_trl.py", "...", *words]
            if words:
                words[0] = words[0].removeprefix(".venv/bin/")
                found.append((number, words))
    return found


def complete(words):
    """Without the dots that stand for more, which are kept where they are an option's value; and whether any were."""
    kept = [
        word
        for before, word in itertools.pairwise(["", *words])
        if word != "..." or (before.startswith("--") and before != "--")
    ]
    return kept, len(kept) == len(words)


def is_runnable(words):
    """Without dots and placeholders in capitals."""
    return "..." not in words and not any(re.fullmatch(r"[A-Z]{2,}[A-Z_]*(\.\w+)?", word) for word in words[1:])


def reason_not_run(words):
    line = " ".join(words)
    fitting = [start for start in NOT_RUN if f"{line} ".startswith(f"{start} ")]
    fitting = [start for start in fitting if not start.startswith("editreward data publish") or line == start]
    return max(fitting, key=len, default=None)


# Parsing


def editreward_parser(lenient):
    """The command's parser; a lenient one asks for no option and no argument."""
    parser = build_parser()
    if lenient:
        for each in all_parsers(parser):
            arguments = [action for action in each._actions if not isinstance(action, argparse._SubParsersAction)]
            for argument in (*arguments, *each._mutually_exclusive_groups):
                argument.required = False
            for argument in arguments:
                if not argument.option_strings:
                    argument.nargs = "*"
    return parser


def all_parsers(parser):
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from all_parsers(child)


@cache
def script(path):
    spec = importlib.util.spec_from_file_location(f"docs_{Path(path).stem}", ROOT / path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Captured(Exception):
    """Carries the parser that a script made."""


def parser_of(path):
    """The parser of a script: what it is about to parse its arguments with."""

    def capture(parser, *args, **kwargs):
        raise Captured(parser)

    module = script(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", capture)
        patch.setattr(TrlParser, "parse_args_and_config", capture)
        with pytest.raises(Captured) as caught:
            module.main()
    return caught.value.args[0]


def training_parser():
    return TrlParser(
        (
            train_trl.EditRewardScriptArguments,
            train_trl.EditRewardTrainingArguments,
            train_trl.EditRewardModelConfig,
        )
    )


def parse_script(path, words, whole):
    """Parse the arguments of a Python file with its own parser."""
    assert (ROOT / path).is_file(), f"there is no {path}"
    if words == ["--help"]:
        return
    if path == "train_trl.py":
        data, _, model = training_parser().parse_args_and_config([*words, "--use_cpu", "true"])
        if whole:
            assert model.model_name_or_path, "no --model_name_or_path"
            assert data.dataset_name or data.datasets, "no --dataset_name"
        return
    if not path.startswith(("research/", "performance/")):
        assert not words, f"nobody knows the options of {path}"
        return
    parser = parser_of(path)
    if isinstance(parser, TrlParser):
        parser.parse_args_and_config(words)
    else:
        parser.parse_args(words)


def parse(words):
    """Have a command line read by the parser of what it calls; `SystemExit` or an error says that it is wrong."""
    words, whole = complete(words)
    program, *rest = words
    if program == "editreward":
        editreward_parser(lenient=not whole).parse_args(rest)
    elif program in ("accelerate", "torchrun"):
        if program == "accelerate":
            assert rest.pop(0) == "launch"
            launched = launch_command_parser().parse_args(rest)
        else:
            launched = torch.distributed.run.get_args_parser().parse_args(rest)
        if launched.module and launched.training_script == "editreward.training.script":
            parse_script("train_trl.py", launched.training_script_args, whole)
        elif launched.module:
            assert launched.training_script == "editreward.cli"
            editreward_parser(lenient=not whole).parse_args(launched.training_script_args)
        else:
            parse_script(launched.training_script, launched.training_script_args, whole)
    elif program == "python" and rest[:2] == ["-m", "research.ablation"]:
        ablation_parser().parse_args(rest[2:])
    elif program == "python" and rest[0] == "-m":
        assert rest[1] == "editreward.cli", f"nobody knows the options of {rest[1]}"
        editreward_parser(lenient=not whole).parse_args(rest[2:])
    elif program == "python":
        parse_script(rest[0], rest[1:], whole)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets)
    elif program == "pip":
        parse_pip(rest)
    else:
        assert program in FOREIGN or program == "export", f"neither run nor checked: {' '.join(words)}"


def parse_pip(words):
    assert words.pop(0) == "install"
    text = (ROOT / "pyproject.toml").read_text()
    known = set(re.findall(r"^([\w-]+) = \[", text.partition("[project.optional-dependencies]")[2], re.MULTILINE))
    options = iter(words)
    for word in options:
        if word == "--index-url":
            next(options)
        elif not word.startswith("-"):
            requirement = Requirement(re.sub(r"^\.", "editreward", word))
            assert requirement.name != "editreward" or requirement.extras <= known, f"extras of {word}"


@pytest.mark.parametrize("page", NAMES)
def test_every_command_line_is_one_that_its_program_takes(page, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for number, words in command_lines(page):
        try:
            parse(words)
            if words[0] not in FOREIGN:  # parsers take abbreviations, which a new option can make ambiguous
                options = {word.partition("=")[0] for word in words if word.startswith("--")}
                assert options <= known_options(), sorted(options - known_options())
        except (SystemExit, AssertionError, ValueError, TypeError) as error:
            said = capsys.readouterr().err.strip().splitlines()[-1:]
            pytest.fail(f"{page}, block at line {number}: {' '.join(words)}: {error} {' '.join(said)}")


@pytest.mark.parametrize("page", NAMES)
def test_every_block_is_code_that_is_checked_or_a_picture_with_a_reason(page):
    for number, language, text in blocks(page):
        if language == "yaml":
            yaml.safe_load(text)
        elif language == "json":
            json.loads(text)
        elif language == "python":
            compile(text, page, "exec")
        elif not is_picture(page, text):
            assert language in ("", *SHELL), f"{page}, line {number}: nobody checks {language}"
            first = text.split()[0].removeprefix(".venv/bin/")
            assert first in PROGRAMS or first.startswith(("--", "#")) or re.match(r"[A-Z_]+=", first), (
                f"{page}, line {number}: neither run nor checked: {text.splitlines()[0]}"
            )


def test_mixtures_in_the_docs_are_lists_that_training_takes():
    (mixture,) = [yaml.safe_load(text) for _, language, text in blocks("docs/training_data.md") if language == "yaml"]
    arguments = GroupDataArguments(**mixture)
    assert [each.path for each in arguments.datasets] == ["org/My-Edits", "train.json", "simulated"]
    assert [each.label for each in arguments.eval_datasets][0] == "mine"


def test_nothing_is_listed_that_no_page_has():
    lines = [words for page in NAMES for _, words in command_lines(page)]
    assert {reason_not_run(words) for words in lines} >= set(NOT_RUN)
    assert {words[0] for words in lines} >= set(FOREIGN)
    first = {(page, text.splitlines()[0]) for page in NAMES for _, language, text in blocks(page) if text}
    assert set(NOT_RUN_PYTHON) <= first
    for page, start in PICTURES:
        assert any(name == page and line.startswith(start) for name, line in first)


# Running


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A cache of the Hub, offline, in which org/EditReward is the bundled model."""
    folder = tmp_path_factory.mktemp("hub")
    repository = folder / "models--org--EditReward"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for file in bundled_model().iterdir():
        (snapshot / file.name).symlink_to(file)
    return folder


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """A fresh adapter on the bundled model."""
    folder = tmp_path_factory.mktemp("runs") / "lora"
    model = EditRewardModel.from_pretrained(bundled_model())
    processor = EditRewardProcessor.from_pretrained(bundled_model())
    adapted = get_peft_model(
        model, adapter_config(model, processor.reward_token_ids, ModelConfig(use_peft=True, lora_r=2))
    )
    adapted.save_pretrained(folder)
    save_configuration(model, folder)
    processor.save_pretrained(folder)
    return folder


def prompts_file(folder):
    """The published prompts' files, by what the golden outputs were made with."""
    cases = json.loads((GOLDEN / "cases.json").read_text())
    names = {"instruction_following": "INSTRUCTION_EDIT_FOLLOWING", "visual_quality": "INSTRUCTION_EDIT_QUALITY"}
    folder.mkdir(parents=True)
    lines = [f"{names[name]} = {text!r}\n" for name, text in cases["templates"].items() if name in names]
    (folder / "prompts.py").write_text("".join(lines))
    (folder / "data_collator_qwen_edit.py").write_text(f"prompt_with_special_token = {cases['reward_suffix']!r}\n")


@pytest.fixture
def workplace(tmp_path, hub, lora, monkeypatch):
    """A folder with the images, data and models that the pages name, as the working directory."""
    for number, name in enumerate(("cat", "a", "b", "c", "room", "chair", "source")):
        group = simulate_group(number, candidates=1)
        (group.source if name in ("cat", "room", "source") else group.candidates[0].image).save(
            tmp_path / f"{name}.png"
        )
    for name in ("configs", "checkpoints", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "lora").symlink_to(lora)
    for name in ("bench", "annotated", "org/My-Edits"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(EXAMPLE)
    # The published model, as small as the golden one is.
    (tmp_path / "EditReward-Qwen2.5-VL-7B").symlink_to(GOLDEN / "checkpoint")
    (tmp_path / "Qwen").mkdir()
    (tmp_path / "Qwen" / "Qwen2.5-VL-7B-Instruct").symlink_to(GOLDEN / "base_model")
    for folder in ("dataset", "EditReward/EditReward/dataset"):
        prompts_file(tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path


@pytest.fixture(scope="module")
def published_pairs(tmp_path_factory):
    """Four groups as published pairs, written by the export."""
    folder = tmp_path_factory.mktemp("published")
    write_groups(itertools.islice(load_groups(EXAMPLE, "train"), 4), folder / "groups")
    command = ["data", "export", str(folder / "groups"), "--format", "editreward-data", "--output"]
    assert main([*command, str(folder / "pairs")]) == 0
    return folder / "pairs"


def literal_comments(text):
    """Comments after a line of code that are values, by line."""
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        code, mark, comment = line.partition("  #")
        if code.strip() and mark:
            try:
                found[number] = ast.literal_eval(comment.strip())
            except (ValueError, SyntaxError):
                continue
    return found


def run_python(text, namespace, page):
    """Run a block; where an expression has its value as a comment, it is compared with that."""
    values = literal_comments(text)
    for statement in ast.parse(text).body:
        if isinstance(statement, ast.Expr):
            value = eval(compile(ast.Expression(statement.value), page, "eval"), namespace)
            if statement.end_lineno in values:
                expected = values[statement.end_lineno]
                if isinstance(expected, str) and expected.endswith("..."):
                    value, expected = value[: len(expected) - 3], expected[:-3]
                assert value == expected, ast.unparse(statement)
        else:
            exec(compile(ast.Module([statement], []), page, "exec"), namespace)


RUN_PYTHON = [page for page in NAMES if any(language == "python" for _, language, _ in blocks(page))]


@pytest.mark.parametrize("page", RUN_PYTHON)
def test_python_of_a_page_runs_in_order(page, workplace):
    namespace = {"__name__": "docs"}
    for number, language, text in blocks(page):
        if language != "python" or (page, text.splitlines()[0]) in NOT_RUN_PYTHON:
            continue
        try:
            run_python(text, namespace, page)
        except Exception as error:
            raise AssertionError(f"{page}, block at line {number}: {type(error).__name__}: {error}") from error


def runnable(page):
    return [
        words
        for _, words in command_lines(page)
        if words[0] == "editreward" and is_runnable(words) and reason_not_run(words) is None
    ]


@pytest.mark.parametrize("page", [page for page in NAMES if runnable(page)])
def test_commands_of_a_page_run_in_order(page, workplace, published_pairs, capsys):
    if any("train.json" in words for words in runnable(page)):
        (workplace / "train.json").symlink_to(published_pairs / "pairs.json")
        (workplace / "images").symlink_to(published_pairs)
    for words in runnable(page):
        status = main(words[1:])
        said = capsys.readouterr().err
        expected = next((code for start, code in STATUS.items() if " ".join(words).startswith(start)), 0)
        assert status == expected, f"{page}: {' '.join(words)}: {said}"


# Names, options, links


def slug(heading):
    """The anchor that the Hub and GitHub give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page):
    listed = tokens(page)
    headings = [after for token, after in itertools.pairwise(listed) if token.type == "heading_open"]
    return {slug("".join(child.content for child in heading.children)) for heading in headings}


@pytest.mark.parametrize("page", NAMES)
def test_links_lead_to_files_and_headings_that_are_there(page):
    links = [child.attrGet("href") for child in inline(page, "link_open")]
    links += [child.attrGet("src") for child in inline(page, "image")]
    html = [child.content for child in inline(page, "html_inline")]
    html += [token.content for token in tokens(page) if token.type == "html_block"]
    links += [link for text in html for link in re.findall(r'(?:src|srcset|href)="([^"]+)"', text)]
    for link in links:
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", path):
            assert path.startswith("https://"), link
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.resolve().exists(), f"{page}: there is no {link}"
        if anchor:
            assert anchor in anchors(str(target.resolve().relative_to(ROOT))), f"{page}: no heading {link}"


@cache
def known_options():
    parsers = [*all_parsers(build_parser()), launch_command_parser(), torch.distributed.run.get_args_parser()]
    scripts = [path for folder in ("research", "performance") for path in sorted(ROOT.glob(f"{folder}/*.py"))]
    parsers += [parser_of(str(path.relative_to(ROOT))) for path in scripts if "def main(" in path.read_text()]
    parsers.append(training_parser())
    options = {option for parser in parsers for action in parser._actions for option in action.option_strings}
    return options | {"--config", "--index-url"}


@pytest.mark.parametrize("page", NAMES)
def test_options_named_in_the_text_exist(page):
    named = {word for child in inline(page, "code_inline") for word in re.findall(r"--[a-z][\w-]*", child.content)}
    assert named <= known_options(), sorted(named - known_options())


@pytest.mark.parametrize("page", NAMES)
def test_files_and_modules_named_in_the_text_exist(page):
    folders = "editreward|tests|configs|research|performance|examples|checkpoints|space|docs|dataset_card"
    for child in inline(page, "code_inline"):
        for path in re.findall(rf"(?<![\w/.-])((?:{folders})/[\w./*-]+)", child.content):
            if not re.search(r"\b[A-Z]{2,}\b(?!\.md)", path):
                assert list(ROOT.glob(path.rstrip("/."))), f"{page}: there is no {path}"
        for name in re.findall(r"^(editreward(?:\.\w+)+)", child.content):
            assert is_importable(name), f"{page}: there is no {name}"


def is_importable(name):
    for end in range(name.count(".") + 1):
        module, *attributes = name.rsplit(".", end)
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError:
            continue
        for attribute in attributes:
            found = getattr(found, attribute, None)
        return found is not None
    return False


# Messages


@cache
def strings_of_the_package():
    """Every string of the code; what is filled in is a null character."""
    found = []
    for path in [*ROOT.glob("*.py"), *ROOT.glob("editreward/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def messages():
    """Messages in the first column of the tables of troubleshooting."""
    cells, listed, found = 0, tokens("docs/troubleshooting.md"), []
    heads = ""
    for token in listed:
        if token.type == "table_open":
            heads = ""
        if token.type == "tr_open":
            cells = 0
        if token.type == "inline" and token.level:
            cells += 1
            heads = heads or token.content
            if cells == 1 and heads == "message":
                found += [child.content for child in token.children if child.type == "code_inline"]
    return found


def test_messages_in_troubleshooting_are_those_of_the_package():
    assert len(messages()) > 20
    for message in messages():
        parts = [part.strip() for part in message.split("...")]
        assert any(has_in_order(text, parts) for text in strings_of_the_package()), message


def has_in_order(text, parts):
    place = 0
    for part in parts:
        place = text.find(part, place)
        if place < 0:
            return False
        place += len(part)
    return True


# The test itself


@pytest.mark.parametrize(
    "line",
    [
        "editreward score --source a.png --edited b.png",  # no instruction
        "editreward score --sauce a.png ...",
        "accelerate launch train_trl.py --config configs/tiny.yaml --learning_rates 1",
        "accelerate launch --no_such_option train_trl.py ...",
        "accelerate launch train_trl.py --dataset_name simulated",  # no model
        "torchrun --nproc-per-node 2 research/pretrain_tiny_vlm.py --config configs/no_such.yaml",
        "python research/recipe_memory.py --nothing",
        "python research/no_such_script.py",
        "make nothing",
        'pip install -e ".[nothing]"',
        "sudo reboot",
    ],
)
def test_a_wrong_command_is_found(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises((SystemExit, AssertionError, ValueError, OSError)):
        parse(shlex.split(line))
