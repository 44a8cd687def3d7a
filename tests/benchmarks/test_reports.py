"""Reports on benchmark results: what they find, what they escape, what is saved and read back, and comparisons."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata

from editreward.benchmarks import BENCHMARKS, protocols, run_benchmark
from editreward.benchmarks.editscore_bench import TASKS
from editreward.benchmarks.measures import MacroShare, MeanOfGroups, StatisticOfRows
from editreward.benchmarks.protocols import Answers
from editreward.benchmarks.reports.comparison import compare_results
from editreward.benchmarks.reports.findings import (
    AHEAD,
    BEHIND,
    breakdowns,
    distributions,
    rank_confusion,
    worst_mistakes,
)
from editreward.benchmarks.reports.report import ELSEWHERE, report_page, write_report
from editreward.benchmarks.reports.saved import read_result, write_answers
from editreward.benchmarks.result import BenchmarkResult
from editreward.benchmarks.runner import GroupRecord, Runner
from editreward.data.benchmark_items import BenchmarkItem, Comparison, comparisons_of
from editreward.groups import GroupScores
from editreward.scorers.baselines import CoinPerPair, RandomScores
from editreward.statistics import compare_shares, holm
from tests.helpers.benchmarks import Table, command, imported, result_of, tuple_bench
from tests.helpers.pictures import picture
from tests.helpers.published_rows import bench_rows, import_bench


def record(number: int, candidates: int, rng: np.random.Generator) -> GroupRecord:
    truth = {"visual_quality": rng.integers(1, 5, candidates).astype(float)}
    texts = {"instruction": f"edit {number}", "category": "add" if number % 3 else "remove", "digest": f"{number}"}
    editors = [f"editor{index}" for index in range(candidates)]
    language = "en" if number % 2 else "zh"
    return GroupRecord(row=number, group_id=f"g{number}", language=language, editors=editors, truth=truth, **texts)


def made(number: int = 40, sizes: tuple[int, ...] = (2, 3, 4), ties: bool = True, judge: bool = False) -> Answers:
    """Items with random truths, and random answers that know a little of them."""
    rng = np.random.default_rng(5)
    items, groups, scores, margins = [], {}, {}, {}
    for index in range(number):
        size = sizes[index % len(sizes)]
        groups[f"g{index}"] = record(index, size, rng)
        ranks = rng.integers(1, 3, 2) if size == 2 and ties else rng.permutation(size) + 1
        item = BenchmarkItem(
            "x", f"{size}pair", f"t{index}", list(range(size)), comparisons_of(range(size), list(ranks)),
            dimension="overall", task=TASKS[index % len(TASKS)], group_id=f"g{index}",
        )  # fmt: skip
        items.append(item)
        overall = rng.normal(size=size) - 0.7 * ranks
        probabilities = 1 / (1 + np.exp(overall[None, :] - overall[:, None]))
        quality = rng.normal(size=size) + groups[f"g{index}"].truth["visual_quality"]
        stds = {"overall": [0.1 + index] * size}
        scores[f"g{index}"] = GroupScores.from_columns(
            overall.tolist(), {"visual_quality": quality.tolist()}, stds, probabilities.tolist()
        )
        for c in item.comparisons:
            margins[f"g{index}", "overall", c.first, c.second] = float(rng.integers(-1, 2))
    return Answers(items, groups, None if judge else scores, margins if judge else None, {"g1": {"novelty": "unseen"}})


def rated() -> Answers:
    """Single edits with human scores."""
    answers, rng = made(sizes=(1,)), np.random.default_rng(2)
    items = [
        replace(item, score=float(rng.integers(1, 7)), subset="pointwise", candidates=[0], comparisons=[])
        for item in answers.items
    ]
    groups = {name: replace(one, editors=[f"editor{one.row % 4}"]) for name, one in answers.groups.items()}
    return replace(answers, items=items, groups=groups)


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize(
    ("protocol", "answers"),
    [
        (protocols.pairs_with_ties, made(sizes=(2,))),
        (protocols.pairs_with_ties, made(sizes=(2,), judge=True)),
        (protocols.tuples, made()),
        (protocols.tuples, made(judge=True)),
        (BENCHMARKS["editscore-bench"].protocol, made(sizes=(2,), ties=False)),
        (BENCHMARKS["editreward-compass"].protocol, made(sizes=(2,))),
        (protocols.ratings, rated()),
    ],
)
def test_the_estimate_and_the_difference_of_a_measure_are_of_one_number(protocol, answers):
    measures = protocol(answers)
    with_cases = [measure for measure in measures if measure.cases is not None]
    assert len(with_cases) >= len(measures) - 1, "only the normalised correlation has none"
    for measure in with_cases:
        cases = measure.cases
        name = (measure.name, measure.subset)
        assert measure.value == pytest.approx(measure.estimate.value, nan_ok=True), name
        assert measure.estimate.total == len(cases.values), name
        turned = replace(cases, values=cases.values[::-1].copy())
        paired, shared = cases.difference(turned)
        assert paired.difference == pytest.approx(cases.value - turned.value, nan_ok=True), name
        assert shared == len(cases.values), name
        assert len(set(cases.keys)) == len(cases.keys) == len(cases.groups) == len(cases.values)


@pytest.mark.parametrize("statistic", [MacroShare(np.array(list("aab") * 40)), MeanOfGroups()])
def test_intervals_that_are_computed_faster_are_those_of_the_bootstrap_of_the_same_number(statistic):
    groups = [f"g{row // 2 if isinstance(statistic, MacroShare) else row}" for row in range(120)]
    values = np.random.default_rng(3).integers(0, 2, 120).astype(float)
    slow = StatisticOfRows(statistic.function, statistic.columns).estimate(values, groups)
    fast = statistic.estimate(values, groups)
    assert (fast.value, fast.low, fast.high) == pytest.approx((slow.value, slow.low, slow.high))
    assert fast.value == statistic.value(values) and fast.low < fast.value < fast.high


def test_confusion_counts_ranks_where_ties_share_the_better_one():
    answers = made()
    expected = {k: np.zeros((k, k), dtype=int) for k in (2, 3, 4)}
    for item in answers.items:
        wins = np.zeros(len(item.candidates))
        for c in item.comparisons:
            wins += np.eye(len(wins))[{"first": c.first, "second": c.second}.get(c.verdict, 0)] * (c.verdict != "tie")
        if wins.any():
            true = rankdata(-wins, "min").astype(int)
            said = rankdata(-np.array(answers.scores[item.group_id].overall), "min").astype(int)
            np.add.at(expected[len(wins)], (true - 1, said - 1), 1)
    found = rank_confusion(answers)
    assert list(found) == [2, 3, 4] and all((found[k] == expected[k]).all() for k in found)
    turned = made(judge=True)  # a judge's verdicts may go round in circles: every candidate has a rank all the same
    assert {k: counts.sum() % k for k, counts in rank_confusion(turned).items()} == {2: 0, 3: 0, 4: 0}


@pytest.mark.usefixtures("few_resamples")
def test_breakdowns_are_accuracies_of_the_pairs_of_each_label():
    answers = made()
    found = {one.kind: one.columns for one in breakdowns(answers)}
    # The subset tells items apart as K does, and is not said twice.
    assert list(found) == ["K", "task", "category", "language", "novelty"]
    for label in ("add", "remove"):
        right, quality = [], []
        for item in answers.items:
            group, scores = answers.groups[item.group_id], answers.scores[item.group_id]
            for c in item.comparisons if group.category == label else []:
                ahead = scores.overall[c.first] > scores.overall[c.second]
                right += [ahead == (c.verdict == "first")] if c.verdict != "tie" else []
                truth = group.truth["visual_quality"][[c.first, c.second]]
                better = scores.dimensions["visual_quality"][c.first] > scores.dimensions["visual_quality"][c.second]
                quality += [better == (truth[0] > truth[1])] if truth[0] != truth[1] else []
        assert found["category"]["overall"][label].value == pytest.approx(np.mean(right))
        assert found["category"]["visual_quality"][label].value == pytest.approx(np.mean(quality))
        assert found["category"]["overall"][label].total == len(right)
    by_editor = {one.kind: one.columns["overall"] for one in breakdowns(rated())}["editing model"]
    assert set(by_editor) == {f"editor{number}" for number in range(4)} and by_editor["editor0"].total == 10


def test_the_worst_mistakes_are_the_most_confident_ones_one_a_group():
    answers = made()
    wrong: dict[str, float] = {}
    for item in answers.items:
        p = answers.scores[item.group_id].preferences
        for c in item.comparisons:
            if c.verdict != "tie":
                better, worse = (c.first, c.second) if c.verdict == "first" else (c.second, c.first)
                if p[worse][better] > 0.5:
                    wrong[item.group_id] = max(wrong.get(item.group_id, 0), p[worse][better])
    found = worst_mistakes(answers, 5)
    assert [one.confidence for one in found] == sorted(wrong.values(), reverse=True)[:5]
    assert [wrong[one.item.group_id] for one in found] == [one.confidence for one in found]
    judge = made(judge=True)
    margins = worst_mistakes(judge, 100)
    assert margins and all(one.unit == "margin" and one.confidence == 1 for one in margins)
    off = worst_mistakes(rated(), 3)
    one = rated()
    scores = rankdata([one.scores[item.group_id].overall[0] for item in one.items]) - 1
    truths = rankdata([item.score for item in one.items]) - 1
    expected = sorted(np.abs(scores - truths) / (len(scores) - 1), reverse=True)[:3]
    assert [abs(mistake.confidence) for mistake in off] == pytest.approx(expected)


def test_scores_are_told_apart_by_what_people_say_and_a_judge_has_none():
    found = distributions(made())
    assert set(found) == {"overall", "visual_quality"} and set(found["overall"]) == {AHEAD, BEHIND}
    assert np.median(found["visual_quality"][AHEAD]) > np.median(found["visual_quality"][BEHIND])
    assert distributions(made(judge=True)) == {}


def test_holm_is_the_closed_test_of_bonferroni():
    rng = np.random.default_rng(1)
    for _ in range(20):
        p = rng.uniform(size=5) ** 3
        for index in range(5):
            subsets = [s for size in range(1, 6) for s in combinations(range(5), size) if index in s]
            expected = max(min(1.0, len(s) * min(p[list(s)])) for s in subsets)
            assert holm(p)[index] == pytest.approx(expected)
    np.testing.assert_allclose(holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])
    assert len(holm([])) == 0


def test_scorers_are_compared_on_the_cases_that_both_have():
    cases = protocols.tuples(made())[0].cases
    other = replace(cases, values=1 - cases.values).only(np.arange(len(cases.values)) >= 3)
    shared = cases.values[3:]
    paired, number = cases.difference(other)
    assert number == len(shared) and paired == compare_shares(shared, 1 - shared, cases.groups[3:])
    turned, _ = other.difference(cases)
    assert turned.difference == pytest.approx(-paired.difference) and turned.p_value == pytest.approx(paired.p_value)
    correlations = protocols.ratings(rated())[2].cases
    better = replace(correlations, values=np.array([item.score for item in rated().items]))
    fewer = better.only(np.arange(len(better.values)) % 2 == 0)
    paired, number = correlations.difference(fewer)
    rows = np.arange(0, len(better.values), 2)
    expected = correlations.only(np.isin(np.arange(len(better.values)), rows)).value - 1
    assert paired.difference == pytest.approx(expected) and number == len(rows)


# Reports of runs


HOSTILE = """<script>alert(1)</script> | "quoted' onload=x `code` **bold** [x](http://a.b) $\\frac{1}$ &amp; 改"""


class Hostile(RandomScores):
    """Random scores with everything a report can show, and names that want to be markup."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.name, self.notes, self.revision = f"scorer {HOSTILE}", [f"note {HOSTILE}"], HOSTILE

    def __call__(self, groups):
        return [
            GroupScores.from_columns(
                s.overall, {HOSTILE: s.overall}, {"overall": s.overall}, [[0.4] * len(s.overall)] * len(s.overall)
            )
            for s in super().__call__(groups)
        ]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> Path:
    """A written report on data whose every text is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    rows = []
    for number, (size, ranking) in enumerate([(2, "B>A"), (2, "A=B=Good"), (3, "C>A>B"), (3, "A>B>C")]):
        rows += bench_rows(f"t{number}", size, ranking, 100 * (number + 1))
    for row in rows:
        row["instruction"] = f"{HOSTILE} {row['id'][:2]}"
        row["model_1"], row["model_2"] = (f"{row[name]} {HOSTILE}" for name in ("model_1", "model_2"))
    import_bench(rows, folder)
    data = imported("editreward-bench", folder / "out")
    result = run_benchmark(BENCHMARKS["editreward-bench"], data, Hostile(), Runner(progress=False))
    groups = {
        name: replace(one, category=f"{HOSTILE} {number % 2}")
        for number, (name, one) in enumerate(result.answers.groups.items())
    }
    result = replace(result, answers=replace(result.answers, groups=groups))
    write_report(result, data.rows, folder / "report")
    return folder / "report"


class Reader(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.text += data


def test_data_are_no_markup_in_the_page_and_the_page_needs_no_other_file(hostile):
    text = (hostile / "result.html").read_text(encoding="utf-8")
    page = Reader(text)
    assert page.tags == set(
        "html head meta title style body h1 h2 h3 p picture source img figure figcaption div span br table caption "
        "thead tbody tr th td strong article".split()
    )
    names = {name for _, name, _ in page.attributes}
    known = {"lang", "charset", "name", "content", "class", "scope", "src", "srcset", "media", "alt", "width", "style"}
    assert names <= known
    styles = [value for _, name, value in page.attributes if name == "style"]
    assert all(re.fullmatch(r"min-width: \d+\.\drem", value) for value in styles)
    links = [value for _, name, value in page.attributes if name in ("src", "srcset")]
    assert links and all(re.fullmatch(r"data:image/(png|jpeg);base64,[\w+/=]+", link) for link in links)
    images = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt")]
    assert len(images) == sum(1 for tag, name, _ in page.attributes if (tag, name) == ("img", "src"))
    assert all(images) and "url(" not in text and "@import" not in text
    for said in (f"scorer {HOSTILE}", f"note {HOSTILE}", f"editor: modelA_seed300 {HOSTILE}", f"“{HOSTILE} t2”"):
        assert said in page.text, said
    assert ELSEWHERE in page.text and "prefers-color-scheme: dark" in text and "width=device-width" in text


def test_data_are_no_markup_in_the_markdown(hostile):
    text = (hostile / "result.md").read_text(encoding="utf-8")
    bare = re.sub(r"\\.", "", text)  # without what is escaped
    assert "<" not in bare and "`" not in bare and "](http" not in bare
    assert not re.findall(r"\*\*(?!.* \|)", bare), "bold is for cells of tables alone"
    tables = [block.split("\n") for block in bare.strip().split("\n\n") if block.startswith("|")]
    assert len(tables) > 4
    for table in tables:
        assert len({line.count("|") for line in table}) == 1, table


def test_a_report_says_where_everything_is_from(hostile):
    page = Reader((hostile / "result.html").read_text(encoding="utf-8")).text
    result = json.loads((hostile / "result.json").read_text(encoding="utf-8"))
    assert result["data"]["sha256"] in page and result["model"]["revision"] in page
    for name in ("torch", "transformers", "numpy", "editreward"):
        assert result["environment"][name] in page
    assert (hostile / "result.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_saved_is_read_back_and_gives_the_same_measures(tmp_path, hostile):
    again = read_result(hostile / "result.json")
    measures = again.benchmark.protocol(again.answers)
    assert json.loads(json.dumps([measure.to_dict() for measure in measures])) == again.data["measures"]
    for number, answers in enumerate((made(), made(judge=True))):
        folder = tmp_path / str(number)
        folder.mkdir()
        kind = "scorer" if answers.scores else "judge of pairs"
        head = {"version": 1, "benchmark": "editreward-bench", "model": {"kind": kind}}
        (folder / "result.json").write_text(json.dumps(head))
        write_answers(answers, folder)
        back = read_result(folder).answers
        assert back.items == answers.items and back.scores == answers.scores and back.margins == answers.margins
        assert back.tags["g1"] == {"novelty": "unseen"} and back.groups.keys() == answers.groups.keys()
        np.testing.assert_equal(back.groups["g3"].truth, answers.groups["g3"].truth)


def test_what_does_not_apply_is_left_out_with_a_word(tmp_path):
    tuple_bench(tmp_path)
    judged = result_of("editreward-bench", tmp_path / "out", CoinPerPair(), with_position_bias=True)
    text = report_page(judged, imported("editreward-bench", tmp_path / "out").rows).markdown()
    assert "Distribution of scores left out: a judge of pairs scores no edit." in text
    assert "Reliability left out: the scorer states no probabilities." in text
    assert "Gemini-2.0-Flash | published, not run here | 55.28 | 50.16 |" in text
    assert "is ahead by 1." in text and "the scorer prefers" not in text


# Comparisons


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Results of one benchmark: who knows the ranking, who turns it, random scores and a coin."""
    folder = tmp_path_factory.mktemp("results")
    made = tuple_bench(folder)
    table = {
        picture(seed + 1 + n): 0.0 if "=" in ranking else -float(ranking.find(letter))
        for ranking, seed in made
        for n, letter in enumerate("ABCD")
    }
    scorers = {"right": Table(table), "wrong": Table({image: -score for image, score in table.items()})}
    scorers |= {"random": RandomScores(), "coin": CoinPerPair(), "same": Table(table)}
    for name, scorer in scorers.items():
        scorer.name = name
        result = result_of("editreward-bench", folder / "out", scorer)
        (folder / name).mkdir()
        (folder / name / "result.json").write_text(json.dumps(result.to_dict()))
        write_answers(result.answers, folder / name)
    return folder


def test_only_who_is_significantly_better_than_all_others_is_bold(results):
    compared = compare_results([results / name for name in ("right", "wrong", "random")])
    pairs = next(m for m in compared.measures if (m.name, m.subset) == ("pair-wise accuracy", "overall"))
    assert compared.labels == ["right", "wrong", "random"] and pairs.best == 0 and len(pairs.differences) == 3
    p = [difference.paired.p_value for difference in pairs.differences]
    assert [difference.adjusted for difference in pairs.differences] == pytest.approx(holm(p).tolist())
    strict = next(m for m in compared.measures if (m.name, m.subset) == ("strict accuracy", "K = 4"))
    assert strict.leader == 0 and strict.best is None, "two tuples are too few"
    text = compared.page().markdown()
    bold = [line for line in text.splitlines() if line.startswith("| pair-wise accuracy | overall | **100.0")]
    assert len(bold) == 1 and "| right best, p" in bold[0]
    assert "not significant: right ahead of" in text and "Holm" in text


def test_equal_scorers_are_not_told_apart(results):
    compared = compare_results([results / "right", results / "same"])
    assert compared.measures and all(measure.best is None for measure in compared.measures)
    assert all(d.paired.p_value == 1 for measure in compared.measures for d in measure.differences)
    assert "**" not in compared.page().markdown() and "Holm" not in compared.page().markdown()


def test_the_command_compares_and_writes(results, tmp_path, capsys):
    options = [results / "right", results / "coin" / "result.json", "--output", tmp_path / "comparison"]
    assert command("compare", *options) == 0
    printed = capsys.readouterr().out
    assert "| measure | of | right | coin | verdict |" in printed and "judges of pairs say themselves" in printed
    data = json.loads((tmp_path / "comparison" / "comparison.json").read_text(encoding="utf-8"))
    assert [scorer["label"] for scorer in data["scorers"]] == ["right", "coin"]
    page = Reader((tmp_path / "comparison" / "comparison.html").read_text(encoding="utf-8"))
    assert "significantly better" in page.text and "script" not in page.tags
    assert (tmp_path / "comparison" / "comparison.png").read_bytes().startswith(b"\x89PNG")


def changed(results: Path, folder: Path, file: str, change) -> Path:
    """A copy of a result with one file changed."""
    folder.mkdir()
    for one in (results / "random").iterdir():
        (folder / one.name).write_text(change(one.read_text()) if one.name == file else one.read_text())
    return folder


def test_what_cannot_be_compared_is_refused_with_the_reason(results, tmp_path, capsys):
    def of(**values):
        def change(text):
            data = json.loads(text)
            for name, value in values.items():
                (data["data"] if name == "sha256" else data)[name] = value
            return json.dumps(data)

        return change

    other_data = changed(results, tmp_path / "a", "result.json", of(sha256="0" * 64))
    other_bench = changed(results, tmp_path / "b", "result.json", of(benchmark="genai-bench"))
    old = changed(results, tmp_path / "c", "result.json", of(version=0))
    labels = changed(
        results, tmp_path / "d", "items.jsonl", lambda text: text.replace('"verdict": "first"', '"verdict": "second"')
    )
    tampered = changed(results, tmp_path / "e", "answers.jsonl", lambda text: re.sub(r"0\.\d+", "0.5", text))
    broken = changed(results, tmp_path / "f", "groups.jsonl", lambda text: text[:-9] + "\n")
    (tmp_path / "empty").mkdir()
    for paths, message in [
        ([results / "right"], "two results or more"),
        ([results / "right", results / "right" / "result.json"], "is given twice"),
        ([results / "right", other_data], "are of different data (SHA-256"),
        ([results / "right", other_bench], "different benchmarks, editreward-bench and genai-bench"),
        ([results / "right", old], "is of version 0"),
        ([results / "right", labels], "have different labels of item"),
        ([results / "right", tampered], "is not what its answers give"),
        ([results / "right", broken], "groups.jsonl is not JSON"),
        ([results / "right", tmp_path / "empty"], "has no result.json"),
    ]:
        assert command("compare", *paths) == 2, message
        assert message in capsys.readouterr().err


def told(name: str, answers: Answers) -> str:
    """The report on answers as Markdown, with what its plots show in words."""
    benchmark, items = BENCHMARKS[name], len(answers.items)
    model = {"name": "m", "kind": "scorer", "revision": None, "fingerprint": "m", "notes": []}
    data = {"name": "x", "revision": None, "sha256": "0", "rows": items, "items": items, "items_judged": items}
    data |= {"groups_judged": items, "items_left_out": {}, "groups_left_out": {}, "not_answered": {}, "faults": {}}
    data |= {"faults_listed": [], "imported": None, "notes": []}
    settings = {"limit": None, "shuffle_instructions": False, "position_bias": False, "preparation": None}
    result = BenchmarkResult(benchmark, model, data, settings, benchmark.protocol(answers), {}, answers)
    return report_page(result, [], examples=0).markdown("plots.png")


@pytest.mark.usefixtures("few_resamples")
def test_a_report_shows_no_number_where_there_is_none():
    answers = rated()
    equal = replace(answers, items=[replace(item, score=3.0) for item in answers.items])
    circle = made(number=1, sizes=(3,))
    verdicts = {(0, 1): "first", (1, 2): "first", (0, 2): "second"}
    comparisons = [Comparison(*pair, verdict) for pair, verdict in verdicts.items()]
    circle = replace(circle, items=[replace(circle.items[0], comparisons=comparisons)])
    assert "ratings" in told("imagenhub", answers) and "K = 3" in told("editreward-bench", circle)
    for name, one in (("imagenhub", equal), ("editreward-bench", circle)):
        assert not re.search(r"\bnan\b", told(name, one))
