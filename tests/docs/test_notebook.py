"""The notebook runs from a fresh kernel, in its folder, and is kept without outputs."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)


def test_the_notebook_is_kept_without_outputs(notebook):
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


def test_links_of_the_notebook_lead_somewhere(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links and all((EXAMPLES / link).is_file() for link in links)


def test_the_notebook_runs_scores_ranks_trains_and_evaluates(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    ran = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    cells = [cell for cell in ran.cells if cell.cell_type == "code"]
    printed = ["".join(out.get("text", "") for out in cell.outputs) for cell in cells]
    assert "± " in printed[0] and "truth" in printed[0]
    assert any("image/png" in out.get("data", {}) for out in cells[1].outputs)
    assert 0.5 <= float(printed[2].split()[0]) <= 1
    tiny, new = re.findall(r"(\d+)% of \d+ pairs", printed[-1])
    assert int(tiny) > 70  # the bundled model: it has learnt what the new one begins to
    assert 0 <= int(new) <= 100
