"""What README, docs and model cards say is true: code runs, commands and their options, files, names and links exist.

Python is found and run by Sybil, a page in one namespace and a folder of its own; `<!--- skip: next -->` before a
block skips it. Of the command lines, those of `editreward` are run, unless `NOT_RUN` has a reason.
"""

import argparse
import ast
import importlib
import io
import itertools
import json
import re
import runpy
import shlex
import sys
from collections.abc import Iterable
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import pytest
import torch.distributed.run
import yaml
from accelerate.commands.launch import launch_command_parser
from markdown_it import MarkdownIt
from packaging.requirements import Requirement
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

from editreward.cli.command import build_parser, main
from editreward.training.datasets import GroupDataArguments
from tests.helpers.published_rows import editscore_rows

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("checkpoints/*/README.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

# Lines of shell that are parsed and not run, by how they begin; the longest that fits counts.
NOT_RUN = {
    "editreward edit-bench": "images or answers of an editor on a benchmark",
    "editreward annotate serve": "a server, which runs until it is stopped: tests/annotation/test_annotation_app.py",
    "editreward annotate report": "of ratings that people gave: tests/annotation/test_annotation_report.py",
    "editreward annotate export": "of ratings that people gave: tests/annotation/test_annotation_database.py",
    "editreward bench": "of hundreds of groups, most of them downloads: tests/benchmarks",
    "editreward best-of": "by an editor, or of candidates of one's own: tests/editors/test_best_of.py",
    "editreward calibrate": "of annotations of one's own: tests/scorers/test_calibrate.py",
    "editreward compare-editors": "of edits of one's own: tests/curation/test_editor_comparison.py",
    "editreward curate": "of a dataset of one's own: tests/curation/test_curate.py",
    "editreward data build-bench": "of ratings that people gave: tests/curation/test_build_bench.py",
    "editreward data import --format editreward-bench": "of a download: tests/data/test_importers.py",
    "editreward data publish annotated/ --repo-id org/My-Edits --license cc-by-4.0": "to the Hub, where it goes "
    "without --dry-run: tests/publishing/test_data_publish.py",
    "editreward data import table": "of a table of one's own: tests/data/test_table_groups.py",
    "editreward rationales": "of a dataset and an endpoint of one's own: tests/curation/test_rationales.py",
    "editreward score --table": "of a table of one's own: tests/scorers/test_score_table.py",
    "editreward generate": "by downloaded editors, or minutes: tests/editors/test_generation.py",
    "editreward prompts import": "of a copy of published code: tests/scorers/prompts",
    "editreward push": "to the Hub: tests/publishing/test_push.py",
    "editreward serve": "a server, which runs until it is stopped: tests/serving",
    "editreward train": "hours: tests/training",
}
# Other programs, which are not here.
FOREIGN = ("deepspeed", "git", "hf")
# What a command exits with where it is not 0.
STATUS = {"editreward data contamination": 1}
PLACEHOLDER = r"[A-Z]{2,}[A-Z_]*(\.\w+)?"


# Reading


@cache
def tokens(page):
    return MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text(encoding="utf-8"))


def blocks(page):
    """Code of a page: language ('' for indented blocks) and text."""
    found = [token for token in tokens(page) if token.type in ("fence", "code_block")]
    return [(token.info.split()[0] if token.info else "", token.content) for token in found]


def inline(page, kind):
    return [child for token in tokens(page) for child in token.children or () if child.type == kind]


def command_lines(page):
    """Words of the command lines of a page; lines of options alone are those of `train_trl.py`."""
    found = []
    for language, text in blocks(page):
        if language not in ("", "bash"):
            continue
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(re.sub(r"[\[\]]", " ", line) if "DATASET" in line else line, comments=True)
            words = list(itertools.dropwhile(lambda word: re.fullmatch(r"[A-Z_]+=\S*", word), words))
            if words and words[0] == "eval":
                words = shlex.split(re.fullmatch(r"\$\((.*)\)", words[1])[1])
            if words and words[0].startswith("--"):
                words = ["python", "train_trl.py", *words]
            if words:
                found.append([words[0].removeprefix(".venv/bin/"), *words[1:]])
    return found


def is_whole(words):
    """Without dots and placeholders in capitals."""
    return "..." not in words and not any(re.fullmatch(PLACEHOLDER, word) for word in words[1:])


def why_not_run(words):
    line = " ".join(words)
    fitting = [start for start in NOT_RUN if f"{line} ".startswith(f"{start} ")]
    fitting = [start for start in fitting if not start.startswith("editreward data publish") or line == start]
    return max(fitting, key=len, default=None)


# Command lines


def options_of_parser(parser):
    return {option for action in parser._actions for option in action.option_strings}


@cache
def options_of_script(target):
    """The options that `python TARGET --help` shows, a file of the repository or `-m MODULE`."""
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit), redirect_stdout(shown):
        patch.setattr(sys, "argv", [target, "--help"])
        if target.endswith(".py"):
            runpy.run_path(str(ROOT / target), run_name="__main__")
        else:
            runpy.run_module(target, run_name="__main__", alter_sys=False)
    return {*re.findall(r"--[a-z][\w-]*", shown.getvalue()), "--config"}  # TRL reads --config by itself


def options_of_command(words):
    """The options of an `editreward` command, whose subcommands must exist; a whole line must be one that it takes."""
    if is_whole(words):
        build_parser().parse_args(words)
    parser = build_parser()
    for word in words:
        choices = next((a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)), None)
        if choices is None or word == "...":
            break
        parser = choices[word]
    passed_on = options_of_script("editreward.training.script") if words[0] == "train" else set()
    return options_of_parser(parser) | passed_on


def check(words):
    """Raise where a command line names a program, file or option that does not exist."""
    program, *rest = words
    named = {word.partition("=")[0] for word in rest if word.startswith("--")}
    for word in rest:
        folder, _, file = word.partition("/")
        assert not file.endswith((".py", ".yaml")) or not (ROOT / folder).is_dir() or (ROOT / word).is_file(), word
    if program == "editreward":
        assert named <= options_of_command(rest)
    elif program in ("python", "accelerate", "torchrun"):
        at = next((i for i, word in enumerate(rest) if word == "-m" or word.endswith(".py")), None)
        assert at is not None, "nothing to run"
        target = rest[at + 1] if rest[at] == "-m" else rest[at]
        launcher = launch_command_parser() if program == "accelerate" else torch.distributed.run.get_args_parser()
        known = options_of_parser(launcher) if program != "python" else set()
        assert {word for word in rest[:at] if word.startswith("--")} <= known
        if target == "editreward.cli":
            known |= options_of_command(rest[at + 2 :])
        elif named - known:
            known |= options_of_script(target)
        assert named <= known, sorted(named - known)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets)
    elif program == "pip":
        extras = re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
        for word in rest[1:]:
            if re.match(r"(editreward|\.)\[", word):
                assert Requirement(re.sub(r"^\.", "editreward", word)).extras <= set(extras), word
    else:
        assert program in (*FOREIGN, "export", "source"), f"neither run nor checked: {program}"


@pytest.mark.parametrize("page", NAMES)
def test_programs_files_and_options_of_command_lines_exist(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in command_lines(page):
        try:
            check(words)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{page}: {' '.join(words)}: {error!r}") from error


@pytest.mark.parametrize(
    "line",
    [
        "editreward calibrate --scorer ssim",  # no --data
        "editreward score --sauce a.png ...",
        "accelerate launch train_trl.py --config configs/tiny.yaml --learning_rates 1",
        "accelerate launch --no_such_option train_trl.py ...",
        "python train_trl.py --config configs/no_such.yaml",
        "python -m research.ablation --nothing",
        "python research/recipe_memory.py --nothing",
        "python research/no_such_script.py",
        "make nothing",
        'pip install -e ".[nothing]"',
        "sudo reboot",
    ],
)
def test_a_wrong_command_is_found(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises((SystemExit, AssertionError)):
        check(shlex.split(line))


def test_nothing_is_listed_that_no_page_has():
    lines = [words for page in NAMES for words in command_lines(page)]
    assert {why_not_run(words) for words in lines} >= set(NOT_RUN)
    assert {words[0] for words in lines} >= set(FOREIGN)


# Code


@pytest.mark.parametrize("page", NAMES)
def test_python_of_a_page_runs_in_order(page, workplace):
    for language, text in blocks(page):
        if language == "python":
            compile(text, page, "exec")  # those that are skipped, too
        elif language in ("yaml", "json"):
            (yaml.safe_load if language == "yaml" else json.loads)(text)
        else:
            assert language in ("", "bash", "text"), f"{page}: nobody checks {language}"
    if page == "docs/api.md":
        return  # made of docstrings, whose examples take up from what is around them
    for example in Sybil([PythonCodeBlockParser(), SkipParser()]).parse(ROOT / page).examples():
        example.evaluate()


def runnable(page):
    lines = [words for words in command_lines(page) if words[0] == "editreward" and is_whole(words)]
    return [words for words in lines if why_not_run(words) is None]


@pytest.mark.parametrize("page", [page for page in NAMES if runnable(page)])
def test_commands_of_a_page_run_in_order(page, workplace, published_pairs, capsys):
    if any("train.json" in words for words in runnable(page)):
        (workplace / "train.json").symlink_to(published_pairs / "pairs.json")
        (workplace / "images").symlink_to(published_pairs)
    if any("reward.json" in words for words in runnable(page)):
        (workplace / "reward.json").write_text(json.dumps(editscore_rows(workplace / "images")))
    for words in runnable(page):
        status = main(words[1:])
        said = capsys.readouterr().err
        expected = next((code for start, code in STATUS.items() if " ".join(words).startswith(start)), 0)
        assert status == expected, f"{page}: {' '.join(words)}: {said}"


def test_mixtures_in_the_docs_are_lists_that_training_takes():
    (mixture,) = [yaml.safe_load(text) for language, text in blocks("docs/training_data.md") if language == "yaml"]
    arguments = GroupDataArguments(**mixture)
    assert [each.path for each in arguments.datasets] == ["org/My-Edits", "train.json", "simulated"]
    assert [each.label for each in arguments.eval_datasets][0] == "mine"


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


def all_parsers(parser) -> Iterable[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from all_parsers(child)


@cache
def known_options():
    parsers = [*all_parsers(build_parser()), launch_command_parser(), torch.distributed.run.get_args_parser()]
    return set().union(*map(options_of_parser, parsers), *map(options_of_script, programs()), {"--index-url"})


def programs():
    """What `python` runs of this repository with options: a file, or by `-m` a module of a package."""
    yield from ("train_trl.py", "editreward.training.generative", "editreward.editors.train")
    for path in sorted([*ROOT.glob("research/**/*.py"), *ROOT.glob("performance/*.py")]):
        name = path.relative_to(ROOT)
        text = path.read_text(encoding="utf-8")
        if '__name__ == "__main__"' in text and "Parser(" in text:
            module = name.parent if name.stem == "__main__" else name.with_suffix("")
            yield str(name) if len(name.parts) == 2 else ".".join(module.parts)


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


def test_messages_in_troubleshooting_are_those_of_the_package():
    nodes = [node for path in [*ROOT.glob("*.py"), *ROOT.glob("editreward/**/*.py")] for node in syntax(path)]
    filled = [
        "".join(getattr(v, "value", "\0") if isinstance(v, ast.Constant) else "\0" for v in node.values)
        for node in nodes
        if isinstance(node, ast.JoinedStr)
    ]
    strings = filled + [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    messages, in_table = [], False
    for line in (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8").splitlines():
        in_table = line.startswith("|") and (in_table or line.startswith("| message"))
        messages += re.findall(r"`([^`]+)`", line.split(" | ")[0]) if in_table else []
    assert len(messages) > 20
    for message in messages:
        pattern = ".*?".join(re.escape(part.strip()) for part in message.split("..."))
        assert any(re.search(pattern, text, re.DOTALL) for text in strings), message


def syntax(path):
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))
