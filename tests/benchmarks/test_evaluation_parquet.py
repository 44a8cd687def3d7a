"""TIGER-Lab's evaluation Parquet of EditReward-Bench and GenAI-Bench: pairs by themselves, images embedded."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from editreward.data.benchmark_items import read_benchmark
from tests.helpers.benchmarks import Table, result_of, values
from tests.helpers.pictures import picture
from tests.helpers.published_rows import run, stored_groups


def file_of(root: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows as Parquet; numbers of columns that name images become embedded images."""

    def cell(name: str, value: Any) -> Any:
        is_image = "image" in name or name.startswith("candidate")
        return {"bytes": picture(value), "path": None} if is_image else value

    made = [{name: cell(name, value) for name, value in row.items()} for row in rows]
    pq.write_table(pa.Table.from_pylist(made), root / "rows.parquet")
    return root / "rows.parquet"


def vote(left: int, right: int, said: str, source: int = 10) -> dict[str, Any]:
    images = {"source_image": source, "left_output_image": left, "right_output_image": right}
    models = {"left_model": f"m{left}", "right_model": f"m{right}", "source_prompt": "a cat", "target_prompt": "a dog"}
    return {"instruct_prompt": "edit", "vote_type": said, **images, **models}


def test_votes_of_genai_bench_become_verdicts_and_both_bad_is_a_tie(tmp_path):
    rows = [vote(1, 2, "leftvote"), vote(2, 3, "rightvote"), vote(1, 3, "tievote"), vote(4, 5, "bothbad_vote", 11)]
    report = run("genai-bench", file_of(tmp_path, rows), tmp_path / "out")
    assert (report["groups"], report["candidates"], report["items"]) == (2, 5, 4)
    assert [item.comparisons[0].verdict for item in read_benchmark(tmp_path / "out")] == [
        "first",
        "second",
        "tie",
        "tie",
    ]
    first, second = stored_groups(tmp_path / "out")
    assert [candidate["editor"] for candidate in first["candidates"]] == ["m1", "m2", "m3"]
    assert second["preferences"] == [] and second["source_images"][0]["bytes"] == picture(11)
    scores = {picture(1): 1.0, picture(2): 0.0, picture(3): 0.9, picture(4): 0.5, picture(5): 0.45}
    found = values(result_of("genai-bench", tmp_path / "out", Table(scores)))
    assert found["accuracy with ties", "all"] == 1 and found["accuracy without ties", "all"] == 1


def test_an_unknown_vote_is_named_and_not_taken_for_a_tie(tmp_path):
    rows = [vote(1, 2, "leftvote"), vote(3, 4, "neither")]
    report = run("genai-bench", file_of(tmp_path, rows), tmp_path / "out", on_fault="list")
    assert report["errors"] == {"unknown-value": 1} and report["items"] == 1


def pair(first: int, second: int, ranking: str | None, scores: dict[int, tuple[float, float]]) -> dict[str, Any]:
    row = {"instruction": "edit", "source_image": 10, "candidate_1": first, "candidate_2": second, "ranking": ranking}
    for side, seed in ((1, first), (2, second)):
        followed, quality = scores[seed]
        row |= {f"instruction_following_{side}": followed, f"visual_quality_{side}": quality, f"model_{side}": "m"}
    return row


SCORES = {1: (4.0, 2.0), 2: (2.0, 3.5), 3: (3.0, 3.0)}


@pytest.mark.parametrize("with_ranking", [True, False])
def test_pairs_of_editreward_bench_have_the_people_s_scores(tmp_path, with_ranking):
    said = ("A>B", "A=B=Good", "B>A") if with_ranking else (None, None, None)
    file = file_of(
        tmp_path, [pair(a, b, one, SCORES) for (a, b), one in zip(((1, 2), (1, 3), (2, 3)), said, strict=True)]
    )
    report = run("editreward-bench-pairs", file, tmp_path / "out")
    assert (report["groups"], report["candidates"], report["items"]) == (1, 3, 3)
    assert [item.comparisons[0].verdict for item in read_benchmark(tmp_path / "out")] == ["first", "tie", "second"]
    (group,) = stored_groups(tmp_path / "out")
    found = [tuple(candidate["scores"].values()) for candidate in group["candidates"]]
    assert found == [SCORES[1], SCORES[2], SCORES[3]]

    followed = {picture(seed): SCORES[seed][0] for seed in SCORES}
    overall = {picture(seed): sum(SCORES[seed]) for seed in SCORES}
    result = values(
        result_of("editreward-bench-pairs", tmp_path / "out", Table(overall, {"visual_quality": followed}))
    )
    assert result["accuracy with ties", "all"] == 1 and result["accuracy without ties", "all"] == 1
    # Scores of one dimension in the place of another's: 1 > 3 > 2 against 2 > 3 > 1.
    assert result["pair-wise accuracy without ties", "visual_quality"] == 0


def test_contradictory_scores_and_lacking_labels_are_reported(tmp_path):
    rows = [pair(1, 2, "A>B", SCORES), pair(1, 3, None, SCORES | {1: (1.0, 2.0)}), pair(2, 3, "A>B>C", SCORES)]
    del rows[2]["model_1"]
    report = run("editreward-bench-pairs", file_of(tmp_path, rows), tmp_path / "out", on_fault="list")
    assert report["errors"] == {"contradictory-score": 1, "ranking": 1}
    (group,) = stored_groups(tmp_path / "out")
    assert group["candidates"][0]["scores"] == {"instruction_following": None, "visual_quality": 2.0}
    rows = [{name: value for name, value in rows[0].items() if name[-1] not in "12" or "candidate" in name}]
    del rows[0]["ranking"]
    report = run(
        "editreward-bench-pairs",
        file_of(tmp_path, [pair(1, 2, "A>B", SCORES), *rows]),
        tmp_path / "two",
        on_fault="list",
    )
    assert report["errors"] == {"missing-field": 1}
