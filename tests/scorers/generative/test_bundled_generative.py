"""The bundled generative scorer: it sits on the bundled vision-language model, and orders simulated edits."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from editreward.cli import command as cli
from editreward.groups import EditGroup
from editreward.scorers.generative.adapters import base_of
from editreward.scorers.prompts import load_prompt_set
from editreward.scorers.registry import load_scorer
from editreward.simulation import simulate_groups
from editreward.statistics import pair_accuracy

FOLDER = Path(__file__).parents[3] / "checkpoints" / "editscore-tiny"


def test_it_is_small_and_its_card_names_the_base_that_is_here():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 2 * 2**20
    base = Path(base_of(FOLDER))
    digest = hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()
    assert base.resolve().name == "tiny-vlm" and digest[:16] in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert load_prompt_set(FOLDER / "prompts.yaml") == load_prompt_set("editreward-words")


@pytest.mark.slow
def test_it_orders_simulated_edits(tmp_path):
    groups = list(simulate_groups(6, "validation", candidates=4))
    file = tmp_path / "scorer.yaml"
    file.write_text(f"generative: {FOLDER}\npasses: 4\n")
    scorer = load_scorer(file)
    answers = scorer([EditGroup([g.source], g.instruction, [c.image for c in g.candidates]) for g in groups])
    truths = [np.array([sum(one.scores.values()) for one in group.candidates]) for group in groups]
    assert pair_accuracy([np.array(one.overall) for one in answers], truths).value > 0.75
    reasons = [one.reasons["IF"] for each in answers for one in each.candidates[0].passes]
    assert all(reasons) and not any("Following" in one for one in reasons)


@pytest.mark.slow
def test_the_benchmark_of_editscore_and_calibrate_take_it_by_its_spec(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (group,) = simulate_groups(1, "validation", candidates=2)
    group.source.save("source.png")
    for place, candidate in enumerate(group.candidates):
        candidate.image.save(f"{place}.png")
    row = {"key": ["a", "b"], "instruction": group.instruction, "input_image": "source.png", "task_type": "extract"}
    row |= {"output_images": ["0.png", "1.png"], "dimension": "overall"}
    Path("rows.json").write_text(json.dumps([row]))
    spec = ["--scorer", f"generative:{FOLDER}", "--passes", "2"]
    assert (
        cli.main(["bench", "editscore-bench", "--data", "rows.json", "--images", ".", "--output", "out", *spec]) == 0
    )
    assert json.loads(Path("out/result.json").read_text())["measures"]

    assert cli.main(["calibrate", "--data", "simulated", "--limit", "5", "--output", "fitted.yaml", *spec]) == 0
    fitted = load_scorer("fitted.yaml")
    (scores,) = fitted([EditGroup(["source.png"], group.instruction, ["0.png", "1.png"])])
    assert fitted.calibrated and len(scores.candidates[0].passes) == 2
    assert sum(scores.probabilities) == pytest.approx(1)
