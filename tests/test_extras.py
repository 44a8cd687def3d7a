"""Each extra of pyproject.toml brings what the modules that it serves import, now or when they are called."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

from editreward import scripts
from tests.helpers.environments import make_environment, required

ROOT = Path(__file__).parents[1]
OURS = {"editreward", "editreward_space", *(path.stem for path in ROOT.glob("*_editreward.py"))}
SERVED = {
    "": ["editreward.scorers.reward_model", "editreward.conversion", "editreward.cli.push", "pipeline_editreward"],
    "annotate": ["editreward.cli.annotate"],
    "data": ["editreward.cli.calibrate", "editreward.cli.data", "editreward.cli.score_dataset"],
    "demo": ["editreward.cli.demo_groups"],
    "eval": [
        "editreward.cli.bench",
        "editreward.cli.curate",
        "editreward.cli.compare_editors",
        "editreward.cli.bench_robustness",
    ],
    "generative": ["editreward.scorers.generative.options", "editreward.scorers.prompts.importing"],
    "generate": ["editreward.cli.generate"],
    "judges": ["editreward.cli.prompts", "editreward.scorers.judges.loading"],
    "ray": ["editreward.serving.ray_app"],
    "serve": ["editreward.cli.serve", "editreward.serving.run"],
    "space": ["editreward_space.scratch", "editreward_space.ui"],
    "train": ["editreward.training.script", "editreward.cli.train", "editreward.cli.merge"],
}
"""Modules by the extra that is to be enough for them; "" is the package without extras."""
OPTIONAL = {
    "accelerate": "for the processes that `accelerate launch` started",
    "dlib": "[faces]; without it faces are not counted",
    "json_repair": "the parse rule 'published' says how to install it",
    "krippendorff": "without it `editreward data stats` leaves the agreement out",
    "matplotlib": "demo and Space take colours from where figures are styled, and draw none",
    "lpips": "the scorer 'lpips' says how to install it",
    "ray": "[ray]; `editreward serve --engine ray` says how to install it",
    "peft": "loading an adapter says how to install it",
    "sklearn": "as krippendorff",
    "spaces": "there on ZeroGPU only",
}
"""Packages that are used where they are installed, and how it goes without."""


def source_of(module: str) -> Path | None:
    """The file of one of our modules."""
    base = (ROOT / "space" if module.startswith("editreward_space") else ROOT).joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@cache
def imports_of(module: str) -> list[str]:
    """What a module imports, inside functions too, but for annotations."""
    return list(_imports_of(module))


def _imports_of(module: str) -> Iterator[str]:
    path = source_of(module)
    assert path is not None, f"there is no module {module}"
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    for_types = [node for node in nodes if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    left_out = {id(inner) for node in for_types for inner in ast.walk(node)}
    for node in nodes:
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages_reached(modules: list[str]) -> dict[str, str]:
    """Packages that modules and what they import of ours import, each with one of those modules."""
    found: dict[str, str] = {}
    seen: set[str] = set()
    left = list(modules)
    while left:
        module = left.pop()
        if module in seen or module == "editreward.cli.command":  # which has every command
            continue
        seen.add(module)
        for name in imports_of(module):
            package = name.partition(".")[0]
            if package in OURS:
                left += [name] if source_of(name) else []
            elif package not in sys.stdlib_module_names:
                found.setdefault(package, module)
    return found


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def distributions_of(extra: str) -> set[str]:
    """What `pip install "editreward[EXTRA]"` installs."""
    return required([f"editreward[{extra}]" if extra else "editreward"]) - {"editreward"}


owners = cache(metadata.packages_distributions)
"""Distributions by top-level module."""


def is_brought(package: str, extra: str) -> bool:
    brought = set(map(normalised, distributions_of(extra)))
    return bool(brought & set(map(normalised, owners().get(package, []))))


# `make test` installs all of them but Ray, which `make test-rest` adds.
EXTRAS = [pytest.param(extra, marks=pytest.mark.slow) if extra == "ray" else extra for extra in SERVED]


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_all_that_its_commands_import(extra):
    missing = {
        package: module
        for package, module in packages_reached(SERVED[extra]).items()
        if package not in OPTIONAL and not is_brought(package, extra)
    }
    assert missing == {}, f"add them to {f'[{extra}]' if extra else 'dependencies'} of pyproject.toml"


def test_every_extra_serves_modules_or_other_extras():
    known = set(metadata.metadata("editreward").get_all("Provides-Extra"))
    services = {
        "deepspeed",
        "dev",
        "faces",
        "int8",
        "open-edits",
        "qlora",
        "research",
        "track",
    }  # options of commands, and ours
    assert set(SERVED) - {""} <= known
    assert known <= set(SERVED) | services


# Those that are run as `python -m research.NAME` have it from the package.
SCRIPTS = ["research/__init__.py", *(str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("performance/*.py")))]
SCRIPTS += [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("research/[!_]*.py"))]
SCRIPTS = [name for name in SCRIPTS if name not in ("performance/measuring.py", "research/scoring_memory.py")]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_name_what_is_missing_before_they_import_anything(name):
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    first = next(node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom))
    assert ast.unparse(first) == "import editreward.scripts"


def test_a_missing_package_ends_a_script_with_one_line_that_names_the_extra(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["performance/serving.py"])
    scripts.tell(ModuleNotFoundError, ModuleNotFoundError("No module named 'httpx'"), None)
    assert capsys.readouterr().err == (
        "serving.py: error: No module named 'httpx': pip install -e \".[dev]\" in the repository brings it\n"
    )
    scripts.tell(FileNotFoundError, FileNotFoundError("runs/blind/grades.txt is missing"), None)
    assert "error: runs/blind/grades.txt is missing (EDITREWARD_DEBUG=1" in capsys.readouterr().err
    scripts.tell(ValueError, ValueError("another"), None)
    assert capsys.readouterr().err == "ValueError: another\n"


@pytest.mark.parametrize(
    "module, package, extras",
    [
        ("editreward.training.script", "trl", "train"),
        ("editreward.training.script", "peft", "train"),
        ("editreward.training.generative", "trl", "train"),
        ("editreward.editors.train", "accelerate", "train,generate"),
    ],
)
def test_training_without_its_packages_is_one_line_that_names_the_extras(module, package, extras):
    run = f"runpy.run_module({module!r}, run_name='__main__')"
    code = f"import runpy, sys; sys.modules[{package!r}] = None; {run}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"{module}: error: ")
    assert last.endswith(f'pip install "editreward[{extras}]"')
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("extra", SERVED)
def test_modules_import_where_only_their_extra_is_installed(extra, tmp_path):
    python = make_environment(tmp_path / "environment", distributions_of(extra))
    code = "import importlib, sys; [importlib.import_module(module) for module in sys.argv[1:]]"
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": f"{ROOT}:{ROOT / 'space'}"}
    command = [python, "-c", code, *SERVED[extra]]
    result = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
