"""The Space as it is published: its own files, and beside them this package with the model that comes with it."""

import shutil
from pathlib import Path

from huggingface_hub import RepoCard

import editreward
from editreward.files import atomic_folder
from editreward.resources import resource
from editreward.scorers.loading import BUNDLED_MODEL, bundled_model

HUB_PARTS = ("configuration", "images", "modeling", "pipeline", "processing")
HUB_FILES = tuple(f"{part}_editreward.py" for part in HUB_PARTS)
MODEL_VARIABLE = "EDITREWARD_SPACE_MODEL"
REVISION_VARIABLE = "EDITREWARD_SPACE_REVISION"

IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc", ".*", "bundled")


def write_space(folder: Path, model: str | None = None) -> None:
    """Write what is published of the Space into a new folder, which runs where the package is not installed.

    Its layout: the files of `space/`; `editreward/`; the Hub files; `checkpoints/editreward-tiny/`.

    Args:
        folder: must not exist, or be empty.
        model: Hub id of the model that it shows, for the metadata; the Space itself reads `MODEL_VARIABLE`.

    Raises:
        ValueError: the folder is not empty.
        FileNotFoundError: files of the Space are not installed.
    """
    package = Path(editreward.__file__).resolve().parent
    with atomic_folder(folder) as part:
        shutil.copytree(resource("space"), part, ignore=IGNORED, dirs_exist_ok=True)
        shutil.copytree(package, part / package.name, ignore=IGNORED)
        for name in HUB_FILES:
            shutil.copyfile(package.parent / name, part / name)
        shutil.copytree(bundled_model(), part / "checkpoints" / BUNDLED_MODEL, ignore=IGNORED)
        if model is not None:
            card = RepoCard.load(part / "README.md", repo_type="space")
            card.data.models = [model]
            card.save(part / "README.md")
