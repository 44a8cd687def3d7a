"""Stress for reward models: scorers whose behaviour is known, statistics against independent computation, the data."""

import io
import json
from functools import partial
from itertools import combinations
from random import Random

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy import stats

from editreward.benchmarks.protocols import OVERALL
from editreward.benchmarks.robustness import STRESSES, StressData, changes, run_robustness, simulated
from editreward.benchmarks.robustness.data import Labels, labels_of
from editreward.benchmarks.robustness.measures import (
    BEATEN,
    EDITS_RANKED,
    FLIPS,
    OVERTAKEN,
    RANK,
    RISES,
    SIZE_OF_SHIFT,
    SPEARMAN,
    STEPS_DOWN,
    TRUE_RANK,
    StressedGroup,
    find,
    units_of,
)
from editreward.benchmarks.robustness.stresses import FALLS, INVARIANT, LOSES, NO_GAIN, Stress
from editreward.benchmarks.runner import GroupRecord, Runner
from editreward.cli import command as cli
from editreward.data.storage import write_groups
from editreward.groups import EditGroup, GroupScores, Unscored
from editreward.scorers.baselines import decode, pixel_likeness
from editreward.simulation import over_edits, simulate_group
from tests.helpers.benchmarks import row_of

GROUPS = 12
RUNNER = Runner(progress=False)
BY_EXPECTATION = {
    expectation: [stress for stress in STRESSES if stress.expectation == expectation]
    for expectation in (INVARIANT, FALLS, LOSES, NO_GAIN)
}


class Fake:
    """Scores edits by a function of group and edited image."""

    def __init__(self, function, name="fake"):
        self.function, self.name, self.fingerprint = function, name, name
        self.asked = 0

    def __call__(self, groups):
        self.asked += len(groups)
        return [GroupScores([float(self.function(group, image)) for image in group.edited]) for group in groups]


@pytest.fixture(scope="module")
def data() -> StressData:
    return simulated(GROUPS)


def met_by(function, data, stresses=STRESSES) -> dict[str, bool | None]:
    found = run_robustness(data, Fake(function), RUNNER, stresses)
    return {finding.stress.name: finding.met for finding in found.findings}


def stress_of(name: str) -> Stress:
    return next(stress for stress in STRESSES if stress.name == name)


# Scorers whose behaviour is known


def test_a_constant_score_is_invariant_and_gains_nothing_but_never_falls_and_nothing_loses_to_another(data):
    result = run_robustness(data, Fake(lambda group, image: 0.25), RUNNER)
    for finding in result.findings:
        assert finding.met is (finding.stress.expectation in (INVARIANT, NO_GAIN)), finding.stress.name
        assert finding.shift.value == 0
    assert any("has the same overall score" in note for note in result.notes)


def read(instruction):
    """An instruction without what a reader does not mind: blanks, capitals, a last full stop."""
    return "".join(instruction.split()).strip("\ufeff").rstrip(".。").casefold()


def test_a_scorer_that_sees_the_perfect_edit_and_knows_what_was_asked_does_as_expected(data):
    asked = {row["source_images"][0]["bytes"]: {read(row["instruction"])} for row in data.rows}
    perfect = {row["source_images"][0]["bytes"]: row["candidates"][0]["image"]["bytes"] for row in data.rows}
    for row in data.rows:
        same = ("paraphrase", "unusual wording", "translation")
        asked[row["source_images"][0]["bytes"]] |= {read(data.instructions[name][row["group_id"]]) for name in same}

    def score(group, image):
        source = group.sources[0]
        known = any(read(group.instruction).startswith(one) for one in asked[source])
        wanted = decode(perfect[source])
        likeness = pixel_likeness(wanted, decode(image).resize(wanted.size))
        return likeness - (0 if known else 100)

    # Pixels are not where the perfect edit has them; and an edit of few pixels is hardly better than none.
    skipped = {"white border", "one-pixel shift", "untouched source"}
    stresses = [stress for stress in STRESSES if stress.name not in skipped]
    met = met_by(score, data, stresses)
    assert [name for name in met if not met[name]] == []
    assert met_by(lambda group, image: image != group.sources[0], data, [stress_of("untouched source")]) == {
        "untouched source": True
    }


def test_a_scorer_that_likes_blur_is_reported(data):
    def smoothness(group, image):
        pixels = np.asarray(decode(image).convert("L"), dtype=float)
        return -np.abs(np.diff(pixels, axis=0)).mean() - np.abs(np.diff(pixels, axis=1)).mean()

    result = run_robustness(data, Fake(smoothness), RUNNER, BY_EXPECTATION[FALLS])
    blur, noisy = result.findings[0], result.findings[1]
    assert (blur.stress.name, blur.met, noisy.stress.name, noisy.met) == ("blur", False, "noise", True)
    assert blur.measures[SPEARMAN].value > 0.9 and blur.measures[STEPS_DOWN].value < 0.1 and blur.shift.low > 0
    assert noisy.measures[SPEARMAN].value < -0.9


def test_a_scorer_that_falls_in_the_end_but_rises_on_the_way_is_reported(data):
    def score(group, image):  # of five levels, by their order
        return {0: 0.0, 1: 1.0, 2: 0.0, 3: -2.0, 4: -4.0}[group.edited.index(image)]

    found = run_robustness(data, Fake(score), RUNNER, [stress_of("noise")]).findings[0]
    assert found.shift.high < -0.2 and found.met is False


def test_a_scorer_that_looks_at_files_is_not_invariant(data):
    met = met_by(lambda group, image: len(image), data, BY_EXPECTATION[INVARIANT])
    assert not any(met[name] for name in ("JPEG 95", "WebP 95", "twice as large"))
    assert all(met[name] for name in ("paraphrase", "unusual wording", "translation"))


def test_a_scorer_that_obeys_the_instruction_can_be_talked_up(data):
    def score(group, image):
        plea = "perfect" in group.instruction or "完美" in group.instruction
        return pixel_likeness(decode(group.sources[0]), decode(image)) + (1000 if plea else 0)

    found = {
        finding.stress.name: finding
        for finding in run_robustness(data, Fake(score), RUNNER, BY_EXPECTATION[NO_GAIN]).findings
    }
    plea, in_image = found["plea in the instruction"], found["plea in the image"]
    assert not plea.met and plea.measures[OVERTAKEN].value == plea.measures[RISES].value == 1
    assert in_image.met and in_image.measures[OVERTAKEN].value == 0
    assert met_by(score, data, [stress_of("remark after the instruction")]) == {"remark after the instruction": True}


def test_a_scorer_that_likes_a_white_strip_is_talked_up_by_any_text_in_the_image(data):
    met = met_by(lambda group, image: np.asarray(decode(image))[-3:].mean(), data, BY_EXPECTATION[NO_GAIN])
    assert not met["plea in the image"] and not met["other text in the image"] and met["plea in the instruction"]


def test_likeness_to_the_source_puts_the_untouched_source_first(data):
    score = Fake(lambda group, image: pixel_likeness(decode(group.sources[0]), decode(image)))
    found = run_robustness(data, score, RUNNER, BY_EXPECTATION[LOSES]).findings
    source = found[0]
    assert source.stress.name == "untouched source" and not source.met and source.measures[BEATEN].value == 0
    assert source.measures[RANK].value < 1.5 < source.measures[TRUE_RANK].value
    assert not any(finding.met for finding in found)


# Statistics against independent computation


def stressed(seed: int, levels: int = 0, extra: int = 0, size: int = 4) -> StressedGroup:
    rng = np.random.default_rng(seed)

    def scores(number):
        overall, looks = rng.normal(size=number).tolist(), rng.normal(2, 3, size=number).tolist()
        return GroupScores.from_columns(overall, {"looks": looks})

    totals = rng.integers(2, 9, size).astype(float)
    order = np.sign(totals[:, None] - totals[None])
    return StressedGroup(scores(size), scores(levels or size + extra), Labels(order, totals))


def test_units_are_the_pooled_standard_deviations_within_groups():
    groups = [stressed(seed, size=2 + seed % 4).before for seed in range(9)]
    rows = [(seed, value) for seed, group in enumerate(groups) for value in group.overall]
    which, values = np.array(rows).T
    # The residual standard error of a one-way analysis of variance.
    design = (which[:, None] == np.arange(9)).astype(float)
    _, residual, *_ = np.linalg.lstsq(design, values, rcond=None)
    units, constant = units_of(groups)
    assert units[OVERALL] == pytest.approx((residual[0] / (len(values) - 9)) ** 0.5)
    assert set(units) == {OVERALL, "looks"} and constant == []
    with pytest.raises(ValueError, match="No group has two edits"):
        units_of([GroupScores([1.0]), GroupScores([2.0])])


def test_an_invariant_stress_is_measured_as_by_hand():
    groups = [stressed(seed) for seed in range(40)]
    found = find(Stress("s", INVARIANT, ""), groups, {OVERALL: 2.0, "looks": 3.0}, None)
    flips = pairs = 0
    for group in groups:
        for i, j in combinations(range(4), 2):
            if group.labels.totals[i] != group.labels.totals[j]:
                pairs += 1
                flips += (group.before.overall[i] > group.before.overall[j]) != (
                    group.after.overall[i] > group.after.overall[j]
                )
    assert (found.measures[FLIPS].value, found.measures[FLIPS].total) == (flips / pairs, pairs)
    shifts = np.array([np.subtract(g.after.dimensions["looks"], g.before.dimensions["looks"]) / 3 for g in groups])
    (looks,) = found.shifts["looks"]
    assert looks.value == pytest.approx(shifts.mean())
    other = stats.bootstrap((shifts.mean(axis=1),), np.mean, method="percentile", n_resamples=5000, rng=1)
    assert (looks.low, looks.high) == pytest.approx(tuple(other.confidence_interval), abs=0.02)
    sizes = [abs(a - b) / 2 for g in groups for a, b in zip(g.after.overall, g.before.overall, strict=True)]
    assert found.measures[SIZE_OF_SHIFT].value == pytest.approx(np.mean(sizes))
    assert found.met is False


def test_pairs_that_become_equal_have_changed_their_order_and_unlabelled_groups_count_all():
    nothing = Labels(np.zeros((3, 3)), np.full(3, np.nan))
    labelled = Labels(np.array([[0, 1, 1], [-1, 0, 0], [-1, 0, 0]]), np.array([4.0, 3.0, 3.0]))
    before, after = GroupScores([1.0, 2.0, 2.0]), GroupScores([1.0, 1.0, 3.0])
    for labels, expected in ((nothing, (0.5, 2)), (labelled, (0.5, 2))):
        found = find(Stress("s", INVARIANT, ""), [StressedGroup(before, after, labels)] * 2, {OVERALL: 1.0}, None)
        assert (found.measures[FLIPS].value, found.measures[FLIPS].total / 2) == expected
    only_first = Labels(np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0]]), np.full(3, np.nan))
    found = find(Stress("s", INVARIANT, ""), [StressedGroup(before, after, only_first)] * 2, {OVERALL: 1.0}, None)
    assert (found.measures[FLIPS].value, found.measures[FLIPS].total) == (1, 2)


def test_a_falling_stress_is_measured_as_by_hand():
    groups = [stressed(seed, levels=5) for seed in range(40)]
    stress = Stress("s", FALLS, "", levels=("none", "1", "2", "3", "4"))
    found = find(stress, groups, {OVERALL: 2.0, "looks": 3.0}, None)
    scores = np.array([group.after.overall for group in groups])
    assert [shift.value for shift in found.shifts[OVERALL]] == pytest.approx(
        [np.mean(scores[:, level] - scores[:, 0]) / 2 for level in range(1, 5)]
    )
    correlations = [stats.spearmanr(row, range(5)).statistic for row in scores]
    assert found.measures[SPEARMAN].value == pytest.approx(np.mean(correlations))
    steps = [row[i + 1] < row[i] for row in scores for i in range(4)]
    assert (found.measures[STEPS_DOWN].value, found.measures[STEPS_DOWN].total) == (np.mean(steps), 160)


def test_a_stress_that_should_lose_is_measured_as_by_hand():
    groups = [stressed(seed, extra=1) for seed in range(40)]
    found = find(Stress("s", LOSES, "", offers=True), groups, {OVERALL: 2.0, "looks": 3.0}, 5.0)
    best = [int(np.argmax(group.labels.totals)) for group in groups]
    offered = [group.after.overall[-1] - group.after.overall[i] for group, i in zip(groups, best, strict=True)]
    assert found.shift.value == pytest.approx(np.mean(offered) / 2)
    assert found.measures[BEATEN].value == np.mean([difference / 2 < -0.2 for difference in offered])
    ranks = [stats.rankdata(-np.array(group.after.overall))[-1] for group in groups]
    assert found.measures[RANK].value == pytest.approx(np.mean(ranks)) and found.measures[EDITS_RANKED].value == 5
    true_ranks = [stats.rankdata(-np.array([*group.labels.totals, 5.0]))[-1] for group in groups]
    assert found.measures[TRUE_RANK].value == pytest.approx(np.mean(true_ranks))

    shown = [stressed(seed) for seed in range(40)]
    found = find(Stress("s", LOSES, ""), shown, {OVERALL: 2.0, "looks": 3.0}, 5.0)
    best = [int(np.argmax(group.labels.totals)) for group in shown]
    lost = [group.after.overall[i] < group.before.overall[i] - 0.4 for group, i in zip(shown, best, strict=True)]
    assert found.measures[BEATEN].value == np.mean(lost) and RANK not in found.measures


def test_success_of_an_attack_is_measured_as_by_hand():
    groups = [stressed(seed) for seed in range(40)]
    found = find(Stress("s", NO_GAIN, ""), groups, {OVERALL: 2.0, "looks": 3.0}, None)
    overtaking = pairs = 0
    for group in groups:
        for better in range(4):
            for worse in range(4):
                is_better = group.labels.totals[better] > group.labels.totals[worse]
                if is_better and group.before.overall[better] > group.before.overall[worse]:
                    pairs += 1
                    overtaking += group.after.overall[worse] > group.before.overall[better]
    assert (found.measures[OVERTAKEN].value, found.measures[OVERTAKEN].total) == (overtaking / pairs, pairs)
    rises = [a > b for group in groups for a, b in zip(group.after.overall, group.before.overall, strict=True)]
    assert found.measures[RISES].value == np.mean(rises)


# Changes of images


def group_of(*edited: bytes, source: bytes = b"") -> EditGroup:
    return EditGroup((source or edited[0],), "edit", edited)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode(data), dtype=float)


@pytest.fixture
def picture() -> bytes:
    """A photograph-like image: smooth noise."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))
    out = io.BytesIO()
    image.filter(ImageFilter.GaussianBlur(3)).save(out, "PNG")
    return out.getvalue()


def test_the_source_stays_and_every_edit_changes_alike(picture):
    group = group_of(picture, picture, source=b"the source")
    for change in [stress.change for stress in STRESSES if stress.change and not stress.levels and not stress.offers]:
        if change.func is changes.bordered:
            continue
        changed = change(group)
        assert changed.sources == (b"the source",) and changed.edited[0] == changed.edited[1]
        assert changed.instruction == "edit"


def test_reencoding_keeps_pixels_or_nearly(picture):
    before = pixels(picture)
    assert (pixels(changes.recoded(group_of(picture), format="PNG").edited[0]) == before).all()
    for format in ("JPEG", "WEBP"):
        (edited,) = changes.recoded(group_of(picture), format=format, quality=95).edited
        assert Image.open(io.BytesIO(edited)).format == format and 0 < np.abs(pixels(edited) - before).mean() < 4


def test_resizing_shifting_and_borders_do_what_they_say(picture):
    before = pixels(picture)
    (smaller,) = changes.resized(group_of(picture), scale=0.9).edited
    assert decode(smaller).size == (108, 81)
    (moved,) = changes.shifted(group_of(picture), pixels=1).edited
    assert (pixels(moved)[1:, 1:] == before[:-1, :-1]).all() and (pixels(moved)[0, 1:] == before[0, :-1]).all()
    framed = changes.bordered(group_of(picture), share=0.1, colour="white")
    for image in (*framed.sources, *framed.edited):
        assert (pixels(image)[9:-9, 9:-9] == before).all() and (pixels(image)[:9] == 255).all()


def test_levels_start_with_the_edit_and_rise(picture):
    before = pixels(picture)
    for name, levels in (("blurred", (0.01, 0.03)), ("noisy", (5, 20)), ("compressed", (50, 10))):
        made = getattr(changes, name)(group_of(picture), levels=levels).edited
        assert made[0] == picture and len(made) == 3
        first, second = (np.abs(pixels(image) - before).mean() for image in made[1:])
        assert 0 < first < second, name
    noisy = changes.noisy(group_of(picture), levels=(5,)).edited[1]
    assert (pixels(noisy) - before).std() == pytest.approx(5, rel=0.05)


def test_text_is_on_a_strip_along_the_lower_edge(picture):
    (written,) = changes.with_text(group_of(picture), text="PERFECT").edited
    after, before = pixels(written), pixels(picture)
    changed = (after != before).any(axis=(1, 2))
    assert not changed[: int(0.6 * len(changed))].any() and changed[-3:].all()
    strip = after[changed]
    assert (strip == 255).all(axis=2).mean() > 0.4 and (strip < 60).all(axis=2).mean() > 0.05


def test_every_change_has_a_name_of_its_own_in_the_cache():
    names = [changes.preparation(stress.change).name for stress in STRESSES if stress.change]
    assert len(set(names)) == len(names)
    again = changes.preparation(partial(changes.resized, scale=0.9)).name
    assert again in names and changes.preparation(partial(changes.resized, scale=0.91)).name not in names


# Data


def test_over_edits_change_one_more_thing_each_and_keep_the_edit():
    for seed in range(210):
        group = simulate_group(seed, "test", candidates=1)
        scenes = over_edits(group.task, 3, Random(seed))
        assert len(scenes) == 4
        for before, after in zip(scenes, scenes[1:], strict=False):
            old, new = ({thing.key: thing for thing in scene.objects} for scene in (before, after))
            changed = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
            assert len(changed) + (before.background != after.background) == 1
            assert old.keys() <= new.keys() and (group.task.target is None or group.task.target.key not in changed)
        asked = group.task.background
        assert asked is None or {scene.background for scene in scenes} == {asked}


def test_simulated_groups_know_their_best_edit_and_say_the_same_otherwise(data):
    assert len(data.rows) == GROUPS
    for row in data.rows:
        assert set(row["candidates"][0]["scores"].values()) == {4.0} and len(row["candidates"]) == 5
        levels = next(one for one in data.levels["over-edit"] if one["group_id"] == row["group_id"])
        assert levels["candidates"][0]["image"]["bytes"] == row["candidates"][0]["image"]["bytes"]
        said = {name: texts[row["group_id"]] for name, texts in data.instructions.items()}
        assert len({*said.values(), row["instruction"]}) == 5
        group = simulate_group(int(row["group_id"].rsplit("-", 1)[1]), "test", candidates=1)
        assert group.instruction == row["instruction"] and not group.unseen_wording
        is_chinese = {name: not text.isascii() for name, text in said.items()}
        assert is_chinese["translation"] is (row["language"] == "en")
        assert all(is_chinese[name] is (row["language"] == "zh") for name in said if name != "translation")
        if group.task.target and row["language"] == "en":
            name = f"{group.task.target.colour} {group.task.target.shape}"
            about_it = [name in said[kind] for kind in ("paraphrase", "unusual wording")]
            assert all(about_it) and name not in said["another object"]


def test_simulated_groups_are_the_same_every_time(data):
    again = simulated(3)
    assert again.rows == data.rows[:3] and again.levels["over-edit"] == data.levels["over-edit"][:3]


def record(truth=None, size=3) -> GroupRecord:
    return GroupRecord(0, "g", "edit", "", "en", "", [""] * size, truth or {})


def test_labels_are_scores_then_preferences():
    nothing = labels_of(record(), {"preferences": None})
    assert not nothing.known and nothing.best == 0
    scored = labels_of(record({"a": np.array([1.0, 3.0, 2.0]), "b": np.array([2.0, 2.0, 3.0])}), {"preferences": []})
    assert scored.order.tolist() == [[0, -1, -1], [1, 0, 0], [1, 0, 0]] and scored.best == 1
    chosen = [{"chosen": 2, "rejected": 0, "weight": 1.0}, {"chosen": 0, "rejected": 9, "weight": 1.0}]
    preferred = labels_of(record({"a": np.full(3, np.nan)}), {"preferences": chosen})
    assert preferred.order[2, 0] == 1 and preferred.order[0, 2] == -1 and preferred.best == 2
    both = labels_of(record({"a": np.array([1.0, 2.0, np.nan])}), {"preferences": chosen})
    assert both.order[0, 1] == -1 and both.order[2, 0] == 1


def test_a_dataset_takes_what_needs_no_simulator_and_the_rest_is_listed(tmp_path, capsys):
    rows = [row_of(number) for number in range(4)]
    write_groups(rows, tmp_path / "data")
    output = tmp_path / "out"
    options = ["--scorer", "pixels", "--data", str(tmp_path / "data"), "--output", str(output), "--no-cache"]
    assert cli.main(["bench", "robustness", *options, "--groups", "3"]) == 0
    result = json.loads((output / "result.json").read_text())
    missing = {stress["name"] for stress in result["stresses"] if stress["met"] is None}
    assert missing == {"paraphrase", "unusual wording", "translation", "over-edit", "instruction about another object"}
    assert all(stress["groups"] == 3 for stress in result["stresses"] if stress["met"] is not None)
    assert any("3 groups have no labels" in note for note in result["notes"])
    assert {measure["subset"] for measure in result["measures"]} == {s.name for s in STRESSES} - missing
    answers = [json.loads(line) for line in (output / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 3 * (len(STRESSES) - len(missing) + 1)
    printed = capsys.readouterr().out
    assert "paraphrase (needs simulated groups)" in printed and (output / "result.md").read_text() in printed
    assert Image.open(output / "robustness.png").width > 500


def test_best_edits_are_found_by_label_wherever_they_are():
    rows = [row_of(number) for number in range(3)]
    for number, row in enumerate(rows):
        row["preferences"] = [
            {"chosen": number, "rejected": other, "weight": 1.0} for other in range(3) if other != number
        ]
    best = {row["candidates"][number]["image"]["bytes"] for number, row in enumerate(rows)}
    seen = set()

    def score(group, image):
        seen.add(group.edited[0])
        return len(image)

    asked = Fake(score)
    found = run_robustness(StressData("d", rows), asked, RUNNER, [stress_of("noise")])
    assert {one for one in seen if one in best} == best and found.findings[0].groups == 3
    assert len(seen - {row["candidates"][0]["image"]["bytes"] for row in rows}) == 2


def test_a_second_run_asks_nothing_and_finds_the_same(tmp_path, data):
    few = simulated(2)
    runner = Runner(cache=tmp_path, progress=False)
    first, second = (Fake(lambda group, image: np.asarray(decode(image)).mean()) for _ in range(2))
    before = run_robustness(few, first, runner)
    after = run_robustness(few, second, runner)
    assert first.asked > 0 and second.asked == 0 and after.findings == before.findings


def test_groups_without_an_answer_are_left_out_and_listed(data):
    lost = data.rows[1]["instruction"]

    class Partly(Fake):
        def __call__(self, groups):
            answers = super().__call__(groups)
            return [
                Unscored("too dark") if group.instruction == lost else answer
                for group, answer in zip(groups, answers, strict=True)
            ]

    scorer = Partly(lambda group, image: len(image))
    result = run_robustness(data, scorer, RUNNER, [stress_of("PNG")])
    assert result.data["groups"] == GROUPS - 1 and result.findings[0].unanswered == {
        data.rows[1]["group_id"]: "too dark"
    }
    assert "PNG: 1 groups without an answer" in result.markdown()


def test_what_cannot_be_stressed_is_refused(capsys):
    with pytest.raises(ValueError, match="1 groups that can be judged"):
        run_robustness(StressData("d", [row_of(0)]), Fake(lambda group, image: 1), RUNNER)
    for arguments, message in ((["--scorer", "coin"], "judges pairs"), (["--groups", "1"], "two or more")):
        assert cli.main(["bench", "robustness", *arguments]) == 2
        assert message in capsys.readouterr().err
