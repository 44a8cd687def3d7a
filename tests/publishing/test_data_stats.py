"""`editreward data stats` against counts made by hand or by loops over all pairs."""

import io
import itertools
import json
import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest
from datasets import DatasetDict
from PIL import Image

from editreward.cli import command as cli
from editreward.data.schema import group_features
from editreward.data.sources import load_groups
from editreward.data.storage import write_groups
from editreward.publishing import stats
from editreward.publishing.stats import NOT_GIVEN, dataset_statistics
from editreward.publishing.stats_report import as_markdown, draw

DIMENSIONS = ["instruction_following", "visual_quality"]


def png(width: int = 10, height: int = 20, colour: str = "red") -> dict:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def make_groups(n: int, seed: int = 0, dimensions=DIMENSIONS, levels=(1.0, 2.0, 3.0, 4.0, None)) -> list[dict]:
    rng = random.Random(seed)
    editors = ["alpha", "beta", "gam|ma", None]
    return [
        {
            "group_id": f"g{number}",
            "origin": rng.choice(["EmuEdit", "AnyEdit", None]),
            "category": rng.choice(["add", "remove"]),
            "instruction": "x" * rng.randint(1, 9),
            "language": "en",
            "source_images": [png(colour=rng.choice(["red", "blue"]))],
            "candidates": [
                {
                    "image": png(30, 40),
                    "editor": rng.choice(editors),
                    "seed": 0,
                    "scores": {name: rng.choice(levels) for name in dimensions},
                    "annotations": [],
                    "rationale": None,
                }
                for _ in range(rng.randint(0, 6))
            ],
            "preferences": [],
        }
        for number in range(n)
    ]


@pytest.mark.parametrize("dimensions", [DIMENSIONS, ["a"], ["a", "b", "c"]])
@pytest.mark.parametrize("levels", [(1.0, 2.0, 3.0, 4.0, None), (1.0, 5 / 3, 7 / 3, 4.0)])
def test_every_count_is_that_of_a_loop(dimensions, levels):
    splits = {"train": make_groups(40, 1, dimensions, levels), "test": make_groups(30, 2, dimensions, levels)}
    found = dataset_statistics(splits, dimensions)
    groups = [group for split in splits.values() for group in split]
    candidates = [candidate for group in groups for candidate in group["candidates"]]
    assert found.splits == {"train": 40, "test": 30} and found.groups == 70
    assert found.candidates == len(candidates)
    assert found.group_sizes == Counter(len(group["candidates"]) for group in groups)
    assert found.origins == Counter(group["origin"] or NOT_GIVEN for group in groups)
    assert list(found.origins.values()) == sorted(found.origins.values(), reverse=True)
    assert found.editors == Counter(candidate["editor"] or NOT_GIVEN for candidate in candidates)
    assert found.instructions == len({group["instruction"] for group in groups})
    assert found.source_files == 2
    assert found.source_sizes == (2e-4, 2e-4, 2e-4) and found.candidate_sizes == (12e-4, 12e-4, 12e-4)
    assert found.fractional == (5 / 3 in levels)

    def value(candidate, name):
        scores = [candidate["scores"][d] for d in dimensions] if name == "overall" else [candidate["scores"][name]]
        return None if None in scores else sum(scores)

    names = [*dimensions, "overall"]
    assert found.scored_candidates == sum(value(candidate, "overall") is not None for candidate in candidates)
    of_editor = defaultdict(list)
    for candidate, name in itertools.product(candidates, names):
        if value(candidate, name) is not None:
            of_editor["all", name].append(value(candidate, name))
            of_editor[candidate["editor"] or NOT_GIVEN, name].append(value(candidate, name))
    for editor, means in {"all": found.means, **found.editor_means}.items():
        assert list(means) == names
        for name, mean in means.items():
            assert mean.total == len(of_editor[editor, name])
            assert mean.value == pytest.approx(np.mean(of_editor[editor, name]))
            assert mean.low <= mean.value <= mean.high
    for name in dimensions:
        assert found.histograms[name] == {
            level: sum(abs(score - level) < 0.5 for score in of_editor["all", name]) for level in (1, 2, 3, 4)
        }
    for one, other in itertools.combinations(dimensions, 2):
        joint = found.joint[f"{one}|{other}"]
        for i, j in itertools.product(range(4), repeat=2):
            assert joint[i][j] == sum(
                value(c, one) is not None
                and value(c, other) is not None
                and (round(value(c, one)), round(value(c, other))) == (i + 1, j + 1)
                for c in candidates
            )

    pairs = [pair for group in groups for pair in itertools.combinations(group["candidates"], 2)]
    assert found.pairs == len(pairs)
    for name in names:
        compared = [(value(a, name), value(b, name)) for a, b in pairs if None not in (value(a, name), value(b, name))]
        tied = sum(math.isclose(a, b) for a, b in compared)
        assert found.ties[name].total == len(compared)
        assert found.ties[name].value == pytest.approx(tied / len(compared))
    wins, tied_samples, disagreeing, tied = 0, 0, 0, 0
    for a, b in pairs:
        if None in (value(a, "overall"), value(b, "overall")):
            continue
        if not math.isclose(value(a, "overall"), value(b, "overall")):
            wins += 1
            continue
        signs = {np.sign(round(value(a, name) - value(b, name), 6)) for name in dimensions}
        tied += 1
        disagreeing += signs != {0}
        tied_samples += len(signs - {0})
    assert found.disagreeing_ties.total == tied
    assert found.disagreeing_ties.value == pytest.approx(disagreeing / tied if tied else math.nan, nan_ok=True)
    assert found.samples["drop"] == wins
    assert found.samples["disentangle"] == wins + tied_samples
    assert found.samples["bradley_terry_ties"] == wins + tied
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["groups"] == 70


def test_preferences_count_as_samples_in_their_own_group():
    groups = make_groups(80, levels=(None,))
    expected = 0
    for group in groups:
        if len(group["candidates"]) > 1:
            group["preferences"] = [{"chosen": 1, "rejected": 0, "weight": 1.0}]
            expected += 1
    found = dataset_statistics({"train": groups}, DIMENSIONS)
    assert expected > 50 and found.preferences == expected
    assert set(found.samples.values()) == {expected}
    groups[0]["preferences"] = [{"chosen": 9, "rejected": 0, "weight": 1.0}]
    with pytest.raises(ValueError, match="Group 'g0': a preference names a candidate that is not there"):
        dataset_statistics({"train": groups}, DIMENSIONS)


def test_agreement_is_told_where_annotators_share_candidates(monkeypatch):
    groups = make_groups(12, levels=(1.0, 2.0, 3.0, 4.0))
    for candidate in (candidate for group in groups for candidate in group["candidates"]):
        same, other = candidate["scores"]["instruction_following"], candidate["scores"]["visual_quality"]
        candidate["annotations"] = [
            {"annotator": "ann", "instruction_following": same, "visual_quality": other},
            {"annotator": "bo", "instruction_following": same, "visual_quality": 5.0 - other},
        ]
    found = dataset_statistics({"train": groups}, DIMENSIONS)
    assert found.annotators == 2 and found.annotations == {2: found.candidates} and found.notes == []
    assert list(found.agreement) == DIMENSIONS
    assert (
        found.agreement["instruction_following"].alpha.value
        == 1
        == found.agreement["instruction_following"].exact.value
    )
    assert found.agreement["visual_quality"].alpha.value < 0 == found.agreement["visual_quality"].exact.value
    assert found.agreement["visual_quality"].alpha.total == found.candidates
    assert "100.0 %" in as_markdown(found)

    groups[0]["candidates"] += make_groups(20)[1]["candidates"]
    groups[0]["candidates"][0]["annotations"][0]["visual_quality"] = 2.5
    found = dataset_statistics({"train": groups}, DIMENSIONS)
    assert found.agreement == {} and "could not be computed" in found.notes[0] and "2.5" in found.notes[0]
    monkeypatch.setattr(stats.importlib.util, "find_spec", lambda name: None)
    found = dataset_statistics({"train": groups}, DIMENSIONS)
    assert found.agreement == {} and "editreward[annotate]" in found.notes[0]
    assert found.notes[0] in as_markdown(found)


def test_markdown_tables_are_whole_and_hold_the_numbers():
    groups = make_groups(40)
    found = dataset_statistics({"train": groups}, DIMENSIONS)
    text = as_markdown(found)
    assert "gam\\|ma" in text and f"| possible pairs | {found.pairs:,} |" in text
    mean = found.means["overall"]
    assert f"| {mean.value:.2f} ({mean.low:.2f} to {mean.high:.2f}) |" in text
    for table in text.split("\n\n"):
        lines = table.splitlines()
        if lines[0].startswith("|"):
            columns = {line.replace("\\|", "").count("|") for line in lines}
            assert len(columns) == 1 and set(lines[1]) <= set("| -:")


@pytest.mark.parametrize(
    "groups",
    [
        pytest.param(make_groups(30), id="scores"),
        pytest.param(make_groups(30, levels=(None,)), id="no scores"),
        pytest.param(make_groups(3, levels=(2.0,)), id="one score"),
        pytest.param([group | {"candidates": []} for group in make_groups(2)], id="no candidates"),
        pytest.param(
            [g | {"category": f"$x_{i}$ 类", "origin": "o" * 99} for i, g in enumerate(make_groups(20))], id="names"
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Glyph")  # the machine may have no font for Chinese
def test_any_dataset_can_be_drawn_and_told(groups, tmp_path):
    found = dataset_statistics({"train": groups}, DIMENSIONS)
    draw(found, tmp_path / "new" / "figure.png", "A $ title")
    with Image.open(tmp_path / "new" / "figure.png") as figure:
        assert figure.width > 1500
        # Nothing is cut off: the page's rim is empty.
        pixels = np.asarray(figure.convert("L"))
        for rim in (pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:]):
            assert rim.min() == 255
    assert as_markdown(found)


def test_names_that_occur_as_headings_too_or_span_lines_keep_their_rows():
    groups = make_groups(20, dimensions=["overall"], levels=(1.0, 4.0))
    for group in groups:
        for candidate in group["candidates"]:
            candidate["editor"] = "all" if candidate["editor"] == "alpha" else "two\nlines"
    found = dataset_statistics({"train": groups}, ["overall"])
    lines = as_markdown(found).splitlines()
    assert "| editor | candidates | overall |" in lines
    counts = [("all", found.candidates), *found.editors.items()]
    for name, count in counts:
        assert any(line.startswith(f"| {name.replace(chr(10), ' ')} | {count} | ") for line in lines)


def test_no_dimension_of_several_has_the_name_of_their_sum():
    with pytest.raises(ValueError, match="'overall' is the sum of several dimensions"):
        group_features(["overall", "consistency"])
    assert list(group_features(["overall"])["candidates"].feature["scores"]) == ["overall"]


def test_an_image_that_cannot_be_opened_is_noted_and_all_else_counted():
    groups = make_groups(5, seed=3)
    whole = dataset_statistics({"train": groups}, DIMENSIONS)
    broken = next(group for group in groups if len(group["candidates"]) > 1)
    broken["candidates"][1]["image"] = {"bytes": b"no image", "path": None}
    found = dataset_statistics({"train": groups}, DIMENSIONS)
    (note,) = set(found.notes) - set(whole.notes)
    assert note.startswith(f"1 images cannot be opened and have no size here; the first: group '{broken['group_id']}'")
    found.notes = whole.notes
    assert found == whole


def test_the_command_prints_and_writes(tmp_path, capsys):
    write_groups(make_groups(12), tmp_path / "data-set")
    write_groups(make_groups(5, seed=9), tmp_path / "data-set", "test")
    arguments = ["data", "stats", str(tmp_path / "data-set")]
    assert cli.main([*arguments, "--json", "--output", str(tmp_path / "out")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["splits"] == {"test": 5, "train": 12}
    assert result == json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert {file.name for file in (tmp_path / "out").iterdir()} == {f"statistics.{s}" for s in ("json", "md", "png")}
    assert cli.main([*arguments, "--split", "test"]) == 0
    assert "| groups | test 5 |" in capsys.readouterr().out

    write_groups(make_groups(3, dimensions=["a"]), tmp_path / "other", dimensions=["a"])
    splits = {"train": load_groups(tmp_path / "data-set"), "other": load_groups(tmp_path / "other")}
    DatasetDict(splits).save_to_disk(tmp_path / "both")
    assert cli.main(["data", "stats", str(tmp_path / "both")]) == 2
    assert "different dimensions. train: instruction_following, visual_quality; other: a." in capsys.readouterr().err
