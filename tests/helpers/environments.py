"""Virtual environments with some of the distributions that are installed here, and nothing else."""

import site
import venv
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement


def required(requirements: list[str]) -> set[str]:
    """Names of what these requirements install, and of what that requires in turn, in the versions that are here."""
    found: set[tuple[str, str]] = set()
    waiting = [(Requirement(line), "") for line in requirements]
    while waiting:
        requirement, of_extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": of_extra}):
            continue
        name, version, requires = _installed(requirement.name)
        assert requirement.specifier.contains(version, prereleases=True), requirement
        for extra in {"", *requirement.extras} - {extra for known, extra in found if known == name}:
            found.add((name, extra))
            waiting += [(one, extra) for one in requires]
    return {name for name, _ in found}


@cache
def _installed(name: str) -> tuple[str, str, list[Requirement]]:
    """Name, version and requirements of what is installed under a name."""
    found = distribution(name)
    return found.name, found.version, [Requirement(line) for line in found.requires or ()]


def make_environment(folder: Path, names: set[str]) -> Path:
    """A virtual environment with these distributions, linked to where they are installed; its Python."""
    venv.create(folder)
    packages = packages_of(folder)
    for name in names:
        installed = distribution(name)
        for top in {file.parts[0] for file in installed.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (packages / top).exists():
                (packages / top).symlink_to(installed.locate_file(top))
    return folder / "bin" / "python"


def packages_of(folder: Path) -> Path:
    """Where a virtual environment keeps its packages."""
    return Path(site.getsitepackages([str(folder)])[0])
