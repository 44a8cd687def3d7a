"""One run of a scorer, or of a judge of pairs, on a benchmark."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import cast

from editreward.benchmarks import protocols
from editreward.benchmarks.benchmark import Benchmark, BenchmarkData
from editreward.benchmarks.protocols import Answers, PairKey
from editreward.benchmarks.result import BenchmarkResult
from editreward.benchmarks.runner import GroupRecord, Inspection, PairQuestion, Runner, shuffled_instructions
from editreward.data.benchmark_items import BenchmarkItem
from editreward.groups import GroupScores, PairwiseJudge, Scorer, Unscored
from editreward.scorers.fingerprints import content_hash
from editreward.scorers.registry import is_judge

LISTED_FAULTS = 1000
"""Faults that a result lists one by one; all are counted."""


@dataclass(frozen=True)
class RunOptions:
    """How a benchmark is run; the fields are arguments of `run_benchmark`."""

    limit: int | None = None
    shuffle_instructions: bool = False
    with_position_bias: bool = False

    def check(self, scorer: Scorer | PairwiseJudge) -> None:
        """Raise a `ValueError` unless the options fit the scorer."""
        if self.with_position_bias and not is_judge(scorer):
            raise ValueError(f"{scorer.name} scores each edit by itself: it has no position bias.")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"The limit must be 1 or more, not {self.limit}.")


@dataclass(frozen=True)
class Questions:
    """What is asked of a scorer.

    Attributes:
        inspection: of the groups that were read.
        asked: number of items about these groups.
        items: those of them that can be judged.
        left_out: ids of the others by what is wrong with them.
        groups: records of the groups of `items`, by id.
        shown: by group id, the instructions that are shown in the place of the groups' own.
    """

    inspection: Inspection
    asked: int
    items: list[BenchmarkItem]
    left_out: dict[str, list[str]]
    groups: dict[str, GroupRecord]
    shown: Mapping[str, str] | None


@dataclass(frozen=True)
class Replies:
    """What a scorer answered.

    Attributes:
        answers: to the items that have one.
        left_out: ids of items by the reason why they have none.
        failed: by group id why there is no answer.
    """

    answers: Answers
    left_out: dict[str, list[str]]
    failed: dict[str, str]


def run_benchmark(
    benchmark: Benchmark,
    data: BenchmarkData,
    scorer: Scorer | PairwiseJudge,
    runner: Runner,
    *,
    limit: int | None = None,
    shuffle_instructions: bool = False,
    with_position_bias: bool = False,
) -> BenchmarkResult:
    """Run a scorer or a judge of pairs on a benchmark. Every process gets the result.

    Args:
        benchmark, data: what to run.
        scorer: who answers.
        runner: cache, processes and progress bars.
        limit: use only the first so many groups.
        shuffle_instructions: show each group another group's instruction: the control for reading it at all.
        with_position_bias: ask a judge about every pair in both orders.

    Raises:
        ValueError: no item can be judged, or the options do not fit the scorer.
    """
    options = RunOptions(limit, shuffle_instructions, with_position_bias)
    options.check(scorer)
    questions = _questions(data, runner, options)
    if is_judge(scorer):
        replies = _ask_judge(benchmark, data, questions, scorer, runner, with_position_bias or benchmark.both_orders)
    else:
        replies = _ask_scorer(benchmark, data, questions, cast(Scorer, scorer), runner)
    answers, left_out = replies.answers, questions.left_out | replies.left_out
    if not answers.items:
        counts = ", ".join(f"{kind}: {len(ids)}" for kind, ids in left_out.items()) or "there is none"
        example = f" The first reason: {next(iter(replies.failed.values()))}" if replies.failed else ""
        raise ValueError(f"No item of {data.name} can be judged ({counts}).{example}")
    measures = benchmark.protocol(answers)
    if with_position_bias:
        measures += protocols.position_bias(answers.pairs(), answers.shown_first)
    return BenchmarkResult(
        benchmark=benchmark,
        model=_about_scorer(scorer, answers.calibrated, options),
        data=_about_data(data, questions, replies, left_out),
        settings={
            "limit": limit,
            "shuffle_instructions": shuffle_instructions,
            "position_bias": with_position_bias,
            "preparation": benchmark.preparation.name if benchmark.preparation else None,
        },
        measures=measures,
        environment=runner.environment(),
        answers=answers,
    )


def _questions(data: BenchmarkData, runner: Runner, options: RunOptions) -> Questions:
    """Check the data, and find the items that can be judged."""
    inspection = runner.inspect(data.rows, options.limit)
    asked = data.items
    if options.limit is not None:
        read = {*inspection.groups, *(name for ids in inspection.left_out.values() for name in ids)}
        asked = [item for item in asked if item.group_id in read]
    items, left_out = usable_items(asked, inspection)
    used = {item.group_id for item in items}
    groups = {name: record for name, record in inspection.groups.items() if name in used}
    shown = shuffled_instructions(list(groups.values())) if options.shuffle_instructions else None
    return Questions(inspection, len(asked), items, left_out, groups, shown)


def _ask_scorer(
    benchmark: Benchmark, data: BenchmarkData, questions: Questions, scorer: Scorer, runner: Runner
) -> Replies:
    groups = list(questions.groups.values())
    found = runner.score(data.rows, groups, scorer, questions.shown, benchmark.preparation)
    scores = {name: answer for name, answer in found.items() if isinstance(answer, GroupScores)}
    failed = {name: answer.reason for name, answer in found.items() if isinstance(answer, Unscored)}
    answered = [item for item in questions.items if item.group_id in scores]
    unanswered = [item for item in questions.items if item.group_id not in scores]
    records = {name: record for name, record in questions.groups.items() if name in scores}
    calibrated = getattr(scorer, "calibrated", False)
    answers = Answers(answered, records, scores, None, data.tags, benchmark.names, calibrated)
    return Replies(answers, _ids("not_answered", unanswered), failed)


def _ask_judge(
    benchmark: Benchmark,
    data: BenchmarkData,
    questions: Questions,
    judge: PairwiseJudge,
    runner: Runner,
    both_orders: bool,
) -> Replies:
    """A judge's answers to all comparisons of the items.

    Published files often have the preferred edit first, which a judge that likes the first would profit from. So each
    pair is shown in an order that a hash of its content decides.
    """
    items = [item for item in questions.items if item.comparisons]
    single = [item for item in questions.items if not item.comparisons]
    pairs: dict[PairKey, PairQuestion] = {}
    order: dict[PairKey, PairKey] = {}
    for item in items:
        for key in _keys(item):
            order[key] = _shown_order(key, questions.groups[item.group_id].digest)
            for one in (key, _turned(key)) if both_orders else (order[key],):
                pairs[one] = PairQuestion(one[0], one[2], one[3], item.dimension, benchmark.ties(item))
    asked = runner.compare(
        data.rows, questions.groups, list(dict.fromkeys(pairs.values())), judge, questions.shown, benchmark.preparation
    )
    found = {key: asked[pair] for key, pair in pairs.items()}
    shown_first = {key: answer for key, answer in found.items() if not isinstance(answer, Unscored)}
    failed = {key[0]: answer.reason for key, answer in found.items() if isinstance(answer, Unscored)}
    margins = {
        key: shown_first[place] if place == key else -shown_first[place]
        for key, place in order.items()
        if all(one in shown_first for one in ((key, _turned(key)) if both_orders else (place,)))
    }
    has_answer = [all(key in margins for key in _keys(item)) for item in items]
    answered = [item for item, has in zip(items, has_answer, strict=True) if has]
    unanswered = [item for item, has in zip(items, has_answer, strict=True) if not has]
    answers = Answers(answered, questions.groups, None, margins, data.tags, benchmark.names, shown_first=shown_first)
    left_out = _ids("single_edits_for_a_judge_of_pairs", single) | _ids("not_answered", unanswered)
    return Replies(answers, left_out, failed)


def _keys(item: BenchmarkItem) -> list[PairKey]:
    return [(item.group_id, item.dimension, c.first, c.second) for c in item.comparisons]


def _turned(key: PairKey) -> PairKey:
    group_id, dimension, first, second = key
    return group_id, dimension, second, first


def _shown_order(key: PairKey, digest: str) -> PairKey:
    """The order in which a pair is shown, the same for either order of the key; `digest` is of its group."""
    _, _, first, second = key
    draw = int(content_hash(digest, *map(str, sorted((first, second)))), 16) % 2
    return _turned(key) if draw == int(first < second) else key


def _ids(kind: str, items: Sequence[BenchmarkItem]) -> dict[str, list[str]]:
    return {kind: [item.item_id for item in items]} if items else {}


def _about_scorer(scorer: Scorer | PairwiseJudge, calibrated: bool, options: RunOptions) -> dict[str, object]:
    return {
        "name": scorer.name + (", instructions shuffled" if options.shuffle_instructions else ""),
        "kind": "judge of pairs" if is_judge(scorer) else "scorer",
        "revision": getattr(scorer, "revision", None),
        "calibrated": calibrated,
        "notes": list(getattr(scorer, "notes", ())),
        "fingerprint": scorer.fingerprint,
    }


def _about_data(
    data: BenchmarkData, questions: Questions, replies: Replies, left_out: dict[str, list[str]]
) -> dict[str, object]:
    inspection, items = questions.inspection, replies.answers.items
    listed = [asdict(fault) for fault in inspection.faults[:LISTED_FAULTS]]
    return {
        "name": data.name,
        "revision": data.revision,
        "sha256": inspection.digest,
        "rows": inspection.rows,
        "groups_judged": len({item.group_id for item in items}),
        "items": questions.asked,
        "items_judged": len(items),
        "items_left_out": left_out,
        "groups_left_out": inspection.left_out,
        "not_answered": replies.failed,
        "faults": dict(Counter(fault.kind for fault in inspection.faults)),
        "faults_listed": [{name: value for name, value in fault.items() if name != "split"} for fault in listed],
        "imported": data.imported,
        "notes": data.notes,
    }


def usable_items(
    items: Sequence[BenchmarkItem], inspection: Inspection
) -> tuple[list[BenchmarkItem], dict[str, list[str]]]:
    """The items that can be judged, and the ids of the others by what is wrong with them."""
    lost = {group_id: kind for kind, ids in inspection.left_out.items() for group_id in ids}
    left_out: dict[str, list[str]] = {}
    kept: list[BenchmarkItem] = []
    for item in items:
        fault = lost.get(item.group_id) or _item_fault(item, inspection.groups.get(item.group_id))
        if fault:
            left_out.setdefault(fault, []).append(item.item_id)
        else:
            kept.append(item)
    said: dict[object, set[object]] = {}
    for item in kept:
        for place, statement in _statements(item):
            said.setdefault(place, set()).add(statement)
    usable: list[BenchmarkItem] = []
    seen: set[object] = set()
    for item in kept:
        statements = _statements(item)
        same = (item.group_id, item.subset, item.dimension, frozenset(statements))
        if any(len(said[place]) > 1 for place, _ in statements):
            left_out.setdefault("contradictory_labels", []).append(item.item_id)
        elif same in seen:
            left_out.setdefault("repeated_item", []).append(item.item_id)
        else:
            seen.add(same)
            usable.append(item)
    return usable, left_out


def _item_fault(item: BenchmarkItem, group: GroupRecord | None) -> str | None:
    if group is None:
        return "unknown_group"
    named = {*item.candidates, *(index for c in item.comparisons for index in (c.first, c.second))}
    if not item.candidates or not all(0 <= index < group.size for index in named):
        return "unknown_candidate"
    if item.score is None:
        pairs = {frozenset((comparison.first, comparison.second)) for comparison in item.comparisons}
        if pairs != {frozenset(pair) for pair in combinations(item.candidates, 2)} or len(item.candidates) < 2:
            return "incomplete_comparisons"
    return None


def _statements(item: BenchmarkItem) -> list[tuple[object, object]]:
    """What an item says, as (about what, what), the same for either order of a pair."""
    about = (item.group_id, item.dimension)
    if item.score is not None:
        return [((*about, item.subset, item.candidates[0]), item.score)]
    found: list[tuple[object, object]] = []
    for c in item.comparisons:
        winner = {"first": c.first, "second": c.second, "tie": None}[c.verdict]
        found.append(((*about, frozenset((c.first, c.second))), winner))
    return found
