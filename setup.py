"""What pyproject.toml cannot say: folders of the root go into a wheel as `editreward/bundled/`.

An editable install reads them where they are (editreward/resources.py).
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

BUNDLED = ("checkpoints", "configs", "dataset_card", "space")


class BuildWithBundledFolders(build_py):
    """Builds the package from nothing, so that no file of an earlier build stays, and adds the folders."""

    def run(self) -> None:
        package = Path(self.build_lib) / "editreward"
        if not self.editable_mode:
            shutil.rmtree(package, ignore_errors=True)
        super().run()
        if not self.editable_mode:
            for folder in BUNDLED:
                ignored = shutil.ignore_patterns("__pycache__", ".*")
                shutil.copytree(folder, package / "bundled" / folder, ignore=ignored)


setup(cmdclass={"build_py": BuildWithBundledFolders})
