"""The examples run as they are, on a CPU with the bundled model."""

import json
import runpy
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parents[2] / "examples" / "rewards").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_prints_rewards(path, capsys):
    runpy.run_path(str(path), run_name="__main__")
    found = json.loads(capsys.readouterr().out.replace("None", "null"))
    assert len(found) in (3, 4) and all(isinstance(one, float) for one in found[:2])
