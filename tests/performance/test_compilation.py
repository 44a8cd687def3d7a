"""The benchmark of `torch.compile`: equal scores, graphs that serve several shapes, and the sums that it prints."""

import json
import statistics

import compilation
import pytest
import torch

from modeling_editreward import EditRewardModel

pytestmark = pytest.mark.slow

# Traces as any backend does, but builds nothing.
COMMAND = ["--device", "cpu", "--backend", "eager", "--candidates", "1", "2", "3", "--sides", "84", "--repetitions"]


@pytest.fixture(autouse=True)
def caches(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # set again by the benchmark, undone afterwards
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_a_graph_serves_other_numbers_of_edits_and_sizes_of_images(tmp_path, capsys):
    report = compilation.main([*COMMAND, "2", "--json", str(tmp_path / "report.json")])
    assert json.loads((tmp_path / "report.json").read_text())["results"] == report["results"]
    rows = {row["input"]: row for row in report["results"]}
    assert list(rows) == ["1 edits", "2 edits", "3 edits", "2 edits of 84 pixels a side", "2 groups of 2 edits"]
    # Layers are alike: one graph for all. One edit becomes several, and one group becomes several: a graph more each.
    assert [row["graphs_so_far"] for row in report["results"]] == [1, 2, 2, 2, 3]
    assert (report["graphs"], report["graph_breaks"]) == (3, 0)
    for row in rows.values():
        assert row["largest_difference"] <= 1e-4 and len(row["seconds"]["eager"]) == 2
        eager, compiled = row["seconds"]["eager"], row["seconds"]["compiled"]
        assert row["ratio"] == statistics.median(a / b for a, b in zip(eager, compiled, strict=True))
        gained = statistics.median(eager) - statistics.median(compiled)
        if gained > 0:
            assert row["calls_to_pay"] == pytest.approx(report["compiling_seconds"] / gained)
        else:
            assert row["calls_to_pay"] is None
    assert "| 2 groups of 2 edits | " in capsys.readouterr().out


def test_scores_that_compiling_changes_are_refused(monkeypatch):
    forward, calls = EditRewardModel.forward, []

    def off(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        calls.append(self)
        output.mean = output.mean + 2e-4 * (self is not calls[0])
        return output

    monkeypatch.setattr(EditRewardModel, "forward", off)
    with pytest.raises(ValueError, match="Scores of 1 edits, compiled, are off by 0.0002"):
        compilation.main([*COMMAND, "1"])
