"""Run the core tests in fresh environments, with the oldest and the newest transformers that the package accepts.

    python research/compatibility.py
    python research/compatibility.py --transformers 5.21.1 5.22.2 --torch-options="--index-url URL"

Each environment is made from nothing by pip: the package as it is in this repository, that release of transformers,
and what the tests import. Prints a Markdown table. The exit code is 1 if a test failed.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import venv
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
CORE_TESTS = ("configuration", "processing", "modeling", "hub_files", "pipeline", "scorer")
REPORTED = ("transformers", "torch", "tokenizers", "huggingface-hub")
TEST_PACKAGES = ("pytest", "hypothesis", "mpmath")


def accepted_releases() -> SpecifierSet:
    """The releases of transformers that pyproject.toml accepts."""
    found = re.search(r'"transformers([<>=!~][^"]*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit("pyproject.toml does not require transformers.")
    return SpecifierSet(found[1])


def oldest_and_newest() -> list[str]:
    """The oldest and the newest of these releases that pip can install here."""
    command = [sys.executable, "-m", "pip", "index", "versions", "transformers"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    match = re.search(r"Available versions: (.*)", listed)
    if match is None:
        raise SystemExit("pip knows no release of transformers; is there a package index?")
    releases = sorted(accepted_releases().filter(match[1].split(", ")), key=Version)
    return list(dict.fromkeys([str(releases[0]), str(releases[-1])]))


def make_environment(folder: Path, release: str, torch_options: list[str]) -> Path:
    """A new virtual environment with the package, this release of transformers and what tests need; its Python."""
    venv.create(folder, with_pip=True, clear=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"

    def pip(*arguments: str) -> None:
        subprocess.run([python, "-m", "pip", "install", "--quiet", *arguments], check=True)

    version = re.search(r"^TORCH_VERSION := (.*)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    pip(f"torch=={version[1]}" if version else "torch", *torch_options)  # another may bring CUDA along, see there
    # What the package needs, without it: a release of transformers that it does not accept may be asked for.
    pip(f"transformers=={release}", *TEST_PACKAGES, "jinja2", "tqdm", "pillow")
    pip("--no-deps", "--editable", str(ROOT))
    return python


def run_tests(python: Path, tests: list[str]) -> tuple[str, list[str]]:
    """Last line of the tests' report, and the versions of what they ran with."""
    files = [str(ROOT / "tests" / f"test_{name}.py") for name in tests]
    command = [python, "-m", "pytest", "-q", "--override-ini=addopts=--strict-markers", *files]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    sys.stderr.write(result.stdout[-6000:] + result.stderr[-2000:])
    code = f"from importlib.metadata import version; print(*map(version, {REPORTED}))"
    versions = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    return result.stdout.strip().splitlines()[-1], versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transformers", nargs="+", metavar="VERSION", help="default: the oldest and the newest")
    parser.add_argument("--tests", nargs="+", default=list(CORE_TESTS), metavar="NAME", help="default: %(default)s")
    parser.add_argument("--work", type=Path, default=ROOT / "out" / "compatibility", help="where environments go")
    parser.add_argument("--torch-options", default="", help="options for pip when it installs PyTorch")
    args = parser.parse_args()

    rows = []
    for release in args.transformers or oldest_and_newest():
        python = make_environment(args.work / release, release, shlex.split(args.torch_options))
        rows.append(run_tests(python, args.tests))
    print(f"| {' | '.join(REPORTED)} | core tests |\n{'|---' * (len(REPORTED) + 1)}|")
    for outcome, versions in rows:
        print(f"| {' | '.join([*versions, re.sub(r'^=+ | =+$', '', outcome)])} |")
    sys.exit(any(re.search("failed|error", outcome) for outcome, _ in rows))


if __name__ == "__main__":
    main()
