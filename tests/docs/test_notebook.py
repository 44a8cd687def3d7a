"""The notebook is kept with its outputs, which are those of the bundled model, and runs from a fresh kernel."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from editreward import EditRewardScorer
from editreward.simulation import simulate_group

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed_by(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def test_the_notebook_is_kept_with_outputs_that_are_small_and_tell_nothing_of_the_machine(notebook):
    nbformat.validate(notebook)
    text = json.dumps(notebook)
    assert len(text) < 400_000
    for cell in code_of(notebook):
        assert cell.execution_count
        for output in cell.outputs:
            assert (
                output.output_type in ("stream", "display_data", "execute_result") and output.get("name") != "stderr"
            )
            shown = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
            assert not re.search(r"/(home|root|tmp|work|usr)/", shown)


def test_the_numbers_that_the_notebook_shows_are_the_bundled_models(notebook):
    scorer = EditRewardScorer.from_pretrained(device="cpu")
    group = simulate_group(seed=12, split="test", candidates=4)
    edits = [candidate.image for candidate in group.candidates]
    best = scorer.best_of(group.source, edits, group.instruction)
    score, rank, compare = code_of(notebook)[:3]
    lines = printed_by(score).splitlines()
    assert lines[0] == group.instruction
    expected = [(name, value) for found in best.scores for name, value in found.dimensions.items()]
    for line, (name, value) in zip(lines[1:], expected, strict=True):
        assert line.split()[0] == name and float(line.split()[1]) == pytest.approx(value.mean, abs=0.011)
    assert f"edit {'ABCD'[best.index]} with probability {best.probability:.2f}" in printed_by(rank)
    first, second = best.order[:2]
    preference = scorer.preference(group.source, edits[first], edits[second], group.instruction)
    assert float(printed_by(compare).split()[0]) == pytest.approx(preference, abs=1e-3)


def test_links_of_the_notebook_lead_somewhere(notebook):
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links and all((EXAMPLES / link).is_file() for link in links)


@pytest.mark.slow
def test_the_notebook_runs_scores_ranks_trains_and_evaluates(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    ran = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    cells = code_of(ran)
    printed = [printed_by(cell) for cell in cells]
    assert "truth" in printed[0]
    assert any("image/png" in out.get("data", {}) for out in cells[1].outputs)
    assert 0.5 <= float(printed[2].split()[0]) <= 1
    tiny, new = re.findall(r"(\d+)% of \d+ pairs", printed[-1])
    assert int(tiny) > 70  # the bundled model: it has learnt what the new one begins to
    assert 0 <= int(new) <= 100
