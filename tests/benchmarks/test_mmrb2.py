"""MMRB2's editing pairs: both published forms make the same groups, and both orders count."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from editreward.benchmarks.reports.comparison import compare_results
from editreward.benchmarks.reports.saved import RESULT, read_result, write_answers
from editreward.data.benchmark_items import read_benchmark
from editreward.groups import Unscored
from tests.helpers.benchmarks import Table, result_of, values
from tests.helpers.pictures import picture, save
from tests.helpers.published_rows import run, stored_groups

PAIRS = [
    # id, prompt (numbers are images), first, second, chosen, source of the prompt
    ("p0", [10, "make it red"], 1, 2, "A", "emu-edit"),
    ("p1", [10, "make it red"], 3, 2, "B", "emu-edit"),
    ("p2", ["put", 11, "beside", 12], 4, 5, "A", "dreambench"),
    ("p3", ["a new sky", 13], 6, 7, "b", "hq-edit"),
]


def json_file(root: Path, pairs=PAIRS) -> Path:
    """The published JSON form."""

    def part(value: int | str) -> list[str]:
        return ["text", value] if isinstance(value, str) else ["image", save(root, f"images/{value}.png", value)]

    rows = []
    for number, (name, prompt, first, second, chosen, source) in enumerate(pairs):
        row: dict[str, Any] = {"id" if number % 2 else "pair_id": name, "chosen": chosen, "prompt_source": source}
        row |= {"prompt_content": [part(value) for value in prompt], "prompt_metadata": {"id": number}}
        for side, seed, editor in (("a", first, "one"), ("b", second, "two")):
            row[f"response_{side}"] = {"model_name": editor, "response_content": [part(seed)]}
        rows.append(row)
    file = root / "edit.json"
    file.write_text(json.dumps({"pairs": rows}, indent=2))
    return file


def parquet_file(root: Path) -> Path:
    """The Parquet form, images embedded."""
    rows = []
    for name, prompt, first, second, chosen, source in PAIRS:
        seeds = [value for value in prompt if isinstance(value, int)]
        words = [value if isinstance(value, str) else f"<image_{seeds.index(value) + 1}>" for value in prompt]
        images = {"prompt_images": seeds, "response_a_images": [first], "response_b_images": [second]}
        row = {column: [{"bytes": picture(seed), "path": None} for seed in made] for column, made in images.items()}
        row |= {"pair_id": name, "prompt_text": " ".join(words), "chosen": chosen, "prompt_source": source}
        rows.append(row | {"response_a_model": "one", "response_b_model": "two"})
    pq.write_table(pa.Table.from_pylist(rows), root / "edit.parquet")
    return root / "edit.parquet"


class FirstUnlessSure:
    """A judge that knows one pair and takes what it sees first elsewhere."""

    name = fingerprint = "first unless sure"

    def __init__(self, sure: set[bytes], silent: set[bytes] = frozenset()) -> None:
        self.sure, self.silent, self.asked = sure, silent, 0

    def compare(self, pairs):
        self.asked += len(pairs)
        return [self._margin(pair) for pair in pairs]

    def _margin(self, pair):
        if pair.first in self.silent:
            return Unscored("no answer")
        return -1.0 if pair.second in self.sure else 1.0


def content(folder: Path) -> list[tuple]:
    """What the groups hold, without ids, which come from paths or hashes."""
    groups = []
    for row in stored_groups(folder):
        images = [[image["bytes"] for image in row["source_images"]], [c["image"]["bytes"] for c in row["candidates"]]]
        editors = [candidate["editor"] for candidate in row["candidates"]]
        groups.append((row["instruction"], row["category"], images, editors, row["preferences"]))
    return groups


@pytest.mark.parametrize("make", [json_file, parquet_file])
def test_both_forms_make_the_same_groups(tmp_path, make):
    report = run("mmrb2", make(tmp_path), tmp_path / "out")
    assert (report["groups"], report["candidates"], report["items"]) == (3, 7, 4)
    items = list(read_benchmark(tmp_path / "out"))
    assert [(item.item_id, item.subset, item.comparisons[0].verdict) for item in items] == [
        ("p0", "one source image", "first"),
        ("p1", "one source image", "second"),
        ("p2", "several source images", "first"),
        ("p3", "one source image", "second"),
    ]
    red, beside, sky = content(tmp_path / "out")
    assert red[:3] == ("make it red", "emu-edit", [[picture(10)], [picture(1), picture(2), picture(3)]])
    assert red[4] == [{"chosen": 0, "rejected": 1, "weight": 1.0}, {"chosen": 1, "rejected": 2, "weight": 1.0}]
    assert beside[0] == "put (image 1) beside (image 2)" and beside[2][0] == [picture(11), picture(12)]
    assert sky[0] == "a new sky" and sky[3] == ["one", "two"]


def test_a_scorer_is_right_where_the_chosen_edit_is_ahead(tmp_path):
    run("mmrb2", parquet_file(tmp_path), tmp_path / "out")
    scores = {picture(seed): 0.0 for seed in range(1, 8)} | {picture(1): 1.0, picture(4): 1.0}
    found = values(result_of("mmrb2", tmp_path / "out", Table(scores)))
    name = "accuracy over both orders"
    # p0 and p2 right; p1 and p3 are equal scores, which name no edit.
    assert found[name, "all"] == 2 / 4 and found[name, "one source image"] == 1 / 3
    assert found[name, "several source images"] == 1 and found[name, "emu-edit"] == 1 / 2


def test_a_judge_is_asked_in_both_orders_and_both_count(tmp_path):
    run("mmrb2", parquet_file(tmp_path), tmp_path / "out")
    judge = FirstUnlessSure({picture(4)})
    result = result_of("mmrb2", tmp_path / "out", judge)
    assert judge.asked == 8
    # Two answers on p2 are right; of the others one each, that of the order with the chosen edit first.
    found = values(result)
    assert found["accuracy over both orders", "all"] == (2 + 3) / 8
    assert found["accuracy over both orders", "several source images"] == 1
    assert found["accuracy over both orders", "hq-edit"] == 1 / 2
    (whole,) = [measure for measure in result.measures if measure.subset == "all"]
    assert whole.estimate.total == 8 and result.to_dict()["published"][0]["rows"]["GPT-5"]["all"] == 73.8


def test_a_judge_in_both_orders_is_compared_by_its_saved_answers(tmp_path):
    run("mmrb2", parquet_file(tmp_path), tmp_path / "out")
    results = {"sure": FirstUnlessSure({picture(4)}), "first": FirstUnlessSure(set())}
    for name, judge in results.items():
        result = result_of("mmrb2", tmp_path / "out", judge)
        (tmp_path / name).mkdir()
        (tmp_path / name / RESULT).write_text(json.dumps(result.to_dict()))
        write_answers(result.answers, tmp_path / name)
        assert read_result(tmp_path / name).answers.shown_first == result.answers.shown_first
    compared = compare_results([tmp_path / name for name in results])
    (whole,) = [measure for measure in compared.measures if measure.subset == "all"]
    assert [estimate.value for estimate in whole.estimates] == [5 / 8, 4 / 8]
    assert whole.differences[0].paired.difference == 1 / 8 and whole.differences[0].cases == 8


def test_the_printed_table_keeps_its_columns_whatever_the_data_name(tmp_path):
    run("mmrb2", json_file(tmp_path, [("p0", [10, "make it red"], 1, 2, "A", "a|b")]), tmp_path / "out")
    lines = result_of("mmrb2", tmp_path / "out", Table({picture(1): 1.0, picture(2): 0.0})).markdown().splitlines()
    assert r"a\|b" in lines[-3]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")}) == 1


def test_a_pair_with_one_answer_is_left_out(tmp_path):
    run("mmrb2", parquet_file(tmp_path), tmp_path / "out")
    result = result_of("mmrb2", tmp_path / "out", FirstUnlessSure({picture(1), picture(4)}, {picture(6)}))
    (whole,) = [measure for measure in result.measures if measure.subset == "all"]
    assert whole.estimate.total == 6 and whole.value == 5 / 6  # p1 is right in one order only
    assert result.to_dict()["data"]["items_left_out"]["not_answered"] == ["p3"]


def test_faults_of_pairs_are_named(tmp_path):
    file = json_file(tmp_path)
    rows = json.loads(file.read_text())["pairs"]
    del rows[0]["response_a"]
    rows[1]["chosen"] = "C"
    rows[2]["prompt_content"] = [["video", "x.mp4"]]
    file.write_text(json.dumps({"pairs": rows}))
    report = run("mmrb2", file, tmp_path / "out", on_fault="list")
    assert report["errors"] == {"missing-field": 1, "unknown-value": 1, "wrong-type": 1}
    assert [item.item_id for item in read_benchmark(tmp_path / "out")] == ["p3"]
