"""What README shows of the bundled model is what this model says."""

import json
from itertools import chain

import pytest
from PIL import Image

from editreward import load_scorer
from research.readme_numbers import (
    MODEL,
    PICTURE,
    README,
    TABLE,
    WORLDS,
    accuracy_table,
    results_of,
    shown_groups,
    shown_scores,
)

FIX = "the weights have changed: run `python research/readme_numbers.py`"


def test_the_scores_in_the_picture_are_this_model_s():
    drawn = list(chain.from_iterable(json.loads(Image.open(PICTURE).info["scores"])))
    now = list(chain.from_iterable(map(shown_scores, shown_groups(load_scorer(MODEL, device="cpu")))))
    assert len(drawn) == len(now) and [sorted(one) for one in drawn] == [sorted(one) for one in now], FIX
    for one, other in zip(drawn, now, strict=True):
        assert one == pytest.approx(other, abs=0.011), FIX


def test_the_table_is_that_of_this_model_s_results():
    found = TABLE.search(README.read_text(encoding="utf-8"))
    assert found is not None and found[0] == accuracy_table(*map(results_of, WORLDS)), FIX
