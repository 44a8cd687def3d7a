"""Releases that are known not to work together. What was tested with which: docs/compatibility.md.

pip warns of a release that pyproject.toml leaves out, and goes on; so it is told where it is met, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet


@dataclass(frozen=True)
class BadCombination:
    """Releases that fail together.

    Attributes:
        releases: specifier by name of the package, such as "<0.22"; all must fit.
        fault: what does not work with them.
        fix: a command that mends it.
    """

    releases: Mapping[str, str]
    fault: str
    fix: str


BAD_COMBINATIONS = (
    BadCombination(
        {"transformers": ">=5.24", "peft": "<0.22"},
        "this transformers refuses this PEFT, so adapters (LoRA, QLoRA, merging, saving) fail",
        'pip install "transformers>=5.23,<5.24"',
    ),
)


def installed_version(package: str) -> str | None:
    """The release that is installed, or `None`."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def known_faults(*packages: str) -> dict[str, str]:
    """What is known to fail with the releases that are installed, and the fix.

    Args:
        packages: only combinations with one of these; all by default.

    Returns:
        Fault and fix by the releases, such as "transformers 5.24.0 and peft 0.21.2".
    """
    found = {}
    for bad in BAD_COMBINATIONS:
        if packages and not bad.releases.keys() & set(packages):
            continue
        versions = {name: installed_version(name) for name in bad.releases}
        if all(
            release is not None and SpecifierSet(bad.releases[name]).contains(release, prereleases=True)
            for name, release in versions.items()
        ):
            found[" and ".join(f"{name} {release}" for name, release in versions.items())] = f"{bad.fault}: {bad.fix}"
    return found


def check_versions(*packages: str) -> None:
    """Make sure that these packages are not known to fail as they are installed.

    Raises:
        ImportError: they are; the message names the fix.
    """
    for releases, fault in known_faults(*packages).items():
        raise ImportError(f"{releases}: {fault}")
