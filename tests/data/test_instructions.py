"""Instructions as others write them down: what a clean reader takes for the same, and what varies in training."""

from collections import Counter
from random import Random

import pytest
from datasets import Dataset

from editreward.data.instructions import varied_instruction, with_line_break, with_other_blanks, with_other_form
from editreward.training.batching import Request
from editreward.training.dataloading import GroupRows, with_varied_instruction
from processing_editreward import clean_instruction

TEXTS = ["Give the cat a red hat", "把天空换成黄昏。", "Remove it.", "x"]


@pytest.mark.parametrize("text", TEXTS)
def test_other_blanks_are_others_and_the_same_once_clean(text):
    for seed in range(50):
        written = with_other_blanks(text, Random(seed))
        assert written != text and clean_instruction(written) == text


@pytest.mark.parametrize("text", TEXTS)
def test_a_line_break_stands_in_place_of_a_blank_and_the_other_form_differs_in_one_character(text):
    for seed in range(20):
        assert clean_instruction(with_line_break(text, Random(seed))).replace("\n", " ") == text
        other = with_other_form(text, Random(seed))
        assert other != text and other.lower().rstrip(".。") == text.lower().rstrip(".。")
    assert with_line_break(text, Random(0)) != text or " " not in text


def test_a_share_of_the_rows_is_varied_anew_in_each_epoch_and_the_same_when_asked_again():
    rows = [{"group_id": f"g{number}", "instruction": "Give the cat a red hat"} for number in range(400)]
    varied = [with_varied_instruction(row, 0.25, 7, 0) for row in rows]
    assert 70 <= sum(new != old for new, old in zip(varied, rows, strict=True)) <= 130, "100 are expected"
    assert varied == [with_varied_instruction(row, 0.25, 7, 0) for row in rows]
    assert varied != [with_varied_instruction(row, 0.25, 7, 1) for row in rows]
    assert varied != [with_varied_instruction(row, 0.25, 8, 0) for row in rows]
    assert [with_varied_instruction(row, 0.0, 7, 0) for row in rows] == rows
    seen = Counter(with_varied_instruction(row, 1.0, 7, 0)["instruction"] for row in rows)
    assert len(seen) > 100 and "Give the cat a red hat" not in seen
    assert with_varied_instruction({"instruction": None}, 1.0, 7, 0) == {"instruction": None}
    assert varied_instruction("x", Random(0)) != "x"


def test_the_data_loader_reads_varied_rows():
    dataset = Dataset.from_list([{"group_id": "g", "instruction": "Give the cat a red hat"}])
    asked = Request(0, 3)
    expected = with_varied_instruction(dataset[0], 1.0, 5, 3)["instruction"]
    assert GroupRows(dataset, None, 5, 1.0)[asked]["instruction"] == expected
    assert GroupRows(dataset, None, 5)[asked]["instruction"] == "Give the cat a red hat"
