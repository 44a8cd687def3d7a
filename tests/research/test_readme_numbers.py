"""What README shows of the bundled model is what this model says."""

import json

import pytest
from PIL import Image

from editreward import load_scorer
from editreward.cli.demo_groups import simulated_group
from research.readme_numbers import MODEL, PICTURE, README, TABLE, accuracy_table, shown_scores

FIX = "the weights have changed: run `python research/readme_numbers.py`"


def test_the_scores_in_the_picture_are_this_model_s():
    drawn = json.loads(Image.open(PICTURE).info["scores"])
    now = shown_scores(simulated_group(load_scorer(MODEL, device="cpu"), seed=0))
    assert len(drawn) == len(now) and [sorted(one) for one in drawn] == [sorted(one) for one in now], FIX
    for one, other in zip(drawn, now, strict=True):
        assert one == pytest.approx(other, abs=0.011), FIX


def test_the_table_is_that_of_this_model_s_results():
    found = TABLE.search(README.read_text(encoding="utf-8"))
    results = json.loads((MODEL / "results.json").read_text(encoding="utf-8"))
    assert found is not None and found[0] == accuracy_table(results), FIX
