"""What comes with the package is found beside it in the repository, and inside it in an installation."""

import subprocess
import sys
from pathlib import Path

import pytest

from editreward import resources
from editreward.resources import resource

ROOT = Path(__file__).parents[1]


def test_the_repository_is_read_where_it_lies():
    assert resource("configs/tiny.yaml") == ROOT / "configs" / "tiny.yaml"
    assert resource("space") == ROOT / "space"


def test_an_installation_holds_its_own(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "editreward"
    (package / "bundled" / "configs").mkdir(parents=True)
    (package / "bundled" / "configs" / "tiny.yaml").touch()
    (package.parent / "space").mkdir()  # of somebody else
    monkeypatch.setattr(resources, "files", lambda name: package)
    assert resource("configs/tiny.yaml") == package / "bundled" / "configs" / "tiny.yaml"
    with pytest.raises(FileNotFoundError, match="space is not there: .*bundled.*complete repository"):
        resource("space")


def test_a_shell_asks_for_a_path():
    command = [sys.executable, "-m", "editreward.resources", "configs/accelerate/fsdp2.yaml"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert printed == f"{ROOT / 'configs' / 'accelerate' / 'fsdp2.yaml'}\n"
