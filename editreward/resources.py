"""What comes with the package and is not code: models, recipes, the dataset card, the Space.

In the repository these folders lie at the root; setup.py puts them into the package, as `bundled`, in a wheel.
A shell asks for the path of one with `python -m editreward.resources configs/paper.yaml`.
"""

import sys
from importlib.resources import files
from pathlib import Path


def resource(name: str) -> Path:
    """The path of a file or folder that comes with the package.

    Args:
        name: its path in the repository, such as "configs/paper.yaml".

    Raises:
        FileNotFoundError: it does not come with this installation.
    """
    package = Path(str(files("editreward")))
    bundled = package / "bundled"
    path = (bundled if bundled.is_dir() else package.parent) / name
    if not path.exists():
        raise FileNotFoundError(
            f"{name} is not there: {path} does not exist. "
            "Install the package from a wheel or from its complete repository."
        )
    return path


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(resource(name))
