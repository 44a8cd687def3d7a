"""A generative scorer against Gaussian heads, on held-out simulated groups.

    python research/generative_study.py --arms gaussian,expected               # score what is not yet, and report
    python research/generative_study.py --generative runs/editscore-tiny --docs  # also into docs/editscore.md

Arms: `gaussian`, a reward model; `expected`, the vision-language model that it was made from, asked for scores alone
as it was trained to answer; of a generative scorer with reasons `greedy` and `sample`, whose passes 1 to 16 are
those of one run: a pass depends on nothing but its seed and what it is asked about.
`gaussian and ...` is the mean of the reward model's and the generative scorer's standardised rewards, as `ensemble:`
takes it. Of the sampled answers also what `editreward rationales` would keep, and how many of the reasons are true.

Every answer goes into a journal in `--work` at once: a run that is stopped goes on there, and the arms are compared on
the groups that all of them have.

Claim of arXiv 2509.23909: the mean over several passes is more accurate than one. **Confirmed** if the difference in
pair accuracy between 8 passes and 1 has a 95 % interval above 0, **refuted** if its interval lies below 1 point, else
undecided. This was written before the first run. Two answers in whole numbers often tie, which orders nothing and
counts as wrong; the column where a tie counts half was added after it.
"""

import editreward.scripts

import argparse
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from editreward.benchmarks.simulated_test_set import TestSet
from editreward.curation.rationales import Rule
from editreward.files import Journal, write_text
from editreward.groups import CandidateScore, EditGroup, GroupScores, Scorer
from editreward.scorers.generative.scorer import GenerativeScorer
from editreward.scorers.registry import load_scorer
from editreward.scorers.reward_model import EditRewardScorer
from editreward.simulation import SimulatedGroup
from editreward.statistics import PairedDifference, Share, compare_shares, rank_correlation, strict_ranking_accuracy
from editreward.statistics.pair_links import fit_pair_link
from editreward.statistics.reliability import expected_calibration_error, log_loss
from editreward.statistics.resampling import share_of

PASSES = (1, 2, 4, 8, 16)
CLAIMED = 8
"""Passes of the claim."""
DOCS = Path("docs/editscore.md")
BEGIN, END = "<!-- begin: research/generative_study.py -->", "<!-- end: research/generative_study.py -->"
OVERALL, FOLLOWING, QUALITY = "overall", "instruction_following", "visual_quality"


@dataclass
class Arm:
    """Scores of groups; lists are per group, arrays of shape (candidates,), NaN for edits without a score.

    Attributes:
        scores: by dimension, and overall.
        std: of the overall score; None where there is none.
        seconds, flops: of a candidate.
    """

    scores: dict[str, list[np.ndarray]]
    std: list[np.ndarray] | None
    seconds: float
    flops: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reward-model", default="checkpoints/editreward-tiny", help="(default: %(default)s)")
    parser.add_argument("--base", default="checkpoints/tiny-vlm", help="of `expected` (default: %(default)s)")
    parser.add_argument("--base-prompts", default="research/tiny_vlm/prompts.yaml", help="(default: %(default)s)")
    parser.add_argument("--generative", default="checkpoints/editscore-tiny", help="(default: %(default)s)")
    parser.add_argument("--arms", default="gaussian,expected,greedy,sample", help="(default: %(default)s)")
    parser.add_argument("--test-set", default="configs/simulated_test_set.json", help="(default: %(default)s)")
    parser.add_argument("--groups", type=int, default=100, help="the first groups of the set (default: %(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/generative-study"), help="(default: %(default)s)")
    parser.add_argument("--chunk", type=int, default=4, help="groups scored at once (default: %(default)s)")
    parser.add_argument("--docs", action="store_true", help=f"put the tables into {DOCS}")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)

    groups = TestSet.from_json(args.test_set).load()[: args.groups]
    prompts = f"{args.generative}/prompts.yaml"
    makers: dict[str, Callable[[], Scorer]] = {
        "gaussian": lambda: load_scorer(args.reward_model),
        "expected": lambda: _generative(args.base, prompts=args.base_prompts, mode="expected"),
        "greedy": lambda: _generative(args.generative, prompts=prompts, mode="greedy"),
        "sample": lambda: _generative(args.generative, prompts=prompts, passes=max(PASSES)),
    }
    records = {
        name: score(name, make, groups, args.work, args.chunk)
        for name, make in makers.items()
        if name in args.arms.split(",")
    }
    count = min(map(len, records.values()))
    text = report({name: found[:count] for name, found in records.items()}, groups[:count])
    print(text)
    if args.docs:
        page = DOCS.read_text(encoding="utf-8")
        before, _, left = page.partition(BEGIN)
        write_text(DOCS, f"{before}{BEGIN}\n\n{text}\n\n{END}{left.partition(END)[2]}")


def _generative(folder: str, **options: Any) -> GenerativeScorer:
    return GenerativeScorer.from_pretrained(folder, **options)


# Scoring


def score(
    name: str, make: Callable[[], Scorer], groups: Sequence[SimulatedGroup], work: Path, chunk: int
) -> list[dict[str, Any]]:
    """Records of the groups by an arm: those of earlier runs, then new ones."""
    journal = Journal(work / f"{name}.jsonl")
    done = journal.resume()
    found = list(journal.records())
    if done >= len(groups):
        return found[: len(groups)]
    scorer = make()
    flops = Counter(scorer)
    journal.open()
    try:
        for start in range(done, len(groups), chunk):
            part = groups[start : start + chunk]
            asked = [EditGroup([g.source], g.instruction, [c.image for c in g.candidates], g.group_id) for g in part]
            began, before = time.process_time(), flops.total()
            answers = scorer(asked)
            candidates = sum(len(group.edited) for group in asked)
            spent = {
                "seconds": (time.process_time() - began) / candidates,
                "flops": (flops.total() - before) / candidates,
            }
            for group, answer in zip(part, answers, strict=True):
                journal.add({"group": group.group_id, **spent, "candidates": _record(answer)})
            print(f"{name}: {start + len(part)} of {len(groups)} groups, {spent['seconds']:.3f} s an edit", flush=True)
    finally:
        journal.close()
    return list(journal.records())


def _record(answer: Any) -> list[dict[str, Any] | None]:
    """Plain data of a group's scores: of passes their overall score and the dimensions of the mean."""
    if not isinstance(answer, GroupScores):
        return []
    return [_of_candidate(one) if isinstance(one, CandidateScore) else None for one in answer.candidates]


def _of_candidate(one: CandidateScore) -> dict[str, Any]:
    return {
        "reward": one.reward,
        "std": one.reward_std,
        "dimensions": {name: score.mean for name, score in one.dimensions.items()},
        "passes": [asdict(each) | {"answers": None} for each in one.passes],
    }


class Counter:
    """Operations of a scorer so far: twice the weights of the linear layers that each token and patch goes through.

    Attention between tokens is left out: of these short prompts it is a few percent.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self._tokens = self._patches = 0
        if isinstance(scorer, EditRewardScorer):
            scorer.model.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, module: Any, positional: Any, inputs: Mapping[str, Any]) -> None:
        self._tokens += int((inputs["segment_ids"] >= 0).sum())
        self._patches += len(inputs["pixel_values"])

    def total(self) -> float:
        if isinstance(self.scorer, EditRewardScorer):
            backbone = self.scorer.model.backbone
            return 2.0 * (
                _weights(backbone.language_model) * self._tokens + _weights(backbone.visual.blocks) * self._patches
            )
        assert isinstance(self.scorer, GenerativeScorer)
        model, counts = self.scorer.writer.model, self.scorer.engine.counts
        tokens = counts.prefill_tokens + counts.answer_tokens
        layers, vision = _weights(model.model.language_model), _weights(model.model.visual.blocks)
        head = model.lm_head.weight.numel() * counts.answer_tokens
        return 2.0 * (layers * tokens + vision * counts.patches + head)


def _weights(module: torch.nn.Module) -> int:
    return sum(one.weight.numel() for one in module.modules() if isinstance(one, torch.nn.Linear))


# Comparing


def arms_of(records: Mapping[str, Sequence[Mapping[str, Any]]], groups: Sequence[SimulatedGroup]) -> dict[str, Arm]:
    """The arms that are compared, by name."""
    arms = {name: _arm(records[name], groups) for name in ("gaussian", "expected", "greedy") if name in records}
    for count in PASSES if "sample" in records else ():
        arms[f"sample, {count}"] = _arm(records["sample"], groups, count)
    for name in ("expected", f"sample, {CLAIMED}"):
        if {"gaussian", name} <= set(arms):
            arms[f"gaussian and {name}"] = _both(arms["gaussian"], arms[name])
    return arms


def _arm(records: Sequence[Mapping[str, Any]], groups: Sequence[SimulatedGroup], passes: int = 0) -> Arm:
    scores: dict[str, list[np.ndarray]] = {name: [] for name in (OVERALL, FOLLOWING, QUALITY)}
    stds: list[np.ndarray] = []
    for record, group in zip(records, groups, strict=True):
        candidates = record["candidates"] or [None] * len(group.candidates)
        told = [_told(one, passes) for one in candidates]
        for name, column in zip(scores, zip(*[one[:3] for one in told], strict=True), strict=True):
            scores[name].append(np.array(column))
        stds.append(np.array([one[3] for one in told]))
    share = passes / max(PASSES) if passes else 1.0
    seconds, flops = (float(np.mean([record[name] for record in records])) for name in ("seconds", "flops"))
    has_std = bool(np.isfinite(np.concatenate(stds)).any()) and passes != 1
    return Arm(scores, stds if has_std else None, seconds * share, flops * share)


def _told(one: Mapping[str, Any] | None, passes: int) -> tuple[float, float, float, float]:
    """Overall score, both dimensions and the standard deviation; NaN where there is none."""
    nan = float("nan")
    if one is None:
        return nan, nan, nan, nan
    if not passes:
        std = nan if one["std"] is None else one["std"]
        return one["reward"], one["dimensions"][FOLLOWING], one["dimensions"][QUALITY], std
    used = one["passes"][:passes]
    overall = [each["overall"] for each in used]
    dimensions = [
        float(np.mean([min(v for k, v in each["sub_scores"].items() if k.startswith(f"{prompt}.")) for each in used]))
        for prompt in ("IF", "VQ")
    ]
    spread = float(np.std(overall, ddof=1)) / np.sqrt(passes) if passes > 1 else nan
    return float(np.mean(overall)), dimensions[0], dimensions[1], spread


def _both(first: Arm, second: Arm) -> Arm:
    """The mean of two arms' standardised scores; an edit needs both."""
    scores = {}
    for name in first.scores:
        parts = []
        for arm in (first, second):
            values = np.concatenate(arm.scores[name])
            mean, std = np.nanmean(values), np.nanstd(values)
            parts.append([(one - mean) / std for one in arm.scores[name]])
        scores[name] = [(a + b) / 2 for a, b in zip(*parts, strict=True)]
    return Arm(scores, None, first.seconds + second.seconds, first.flops + second.flops)


def truths_of(groups: Sequence[SimulatedGroup]) -> dict[str, list[np.ndarray]]:
    """True scores by dimension; overall: their sum."""
    truths = {
        name: [np.array([float(c.scores[name]) for c in g.candidates]) for g in groups]
        for name in (FOLLOWING, QUALITY)
    }
    return {OVERALL: [a + b for a, b in zip(truths[FOLLOWING], truths[QUALITY], strict=True)], **truths}


def pair_counts(scores: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """For each group the pairs in the true order, and those whose truth differs. NaN orders nothing."""
    right, total = [], []
    for score, truth in zip(scores, truths, strict=True):
        first, second = np.triu_indices(len(truth), k=1)
        differs = truth[first] != truth[second]
        alike = np.sign(score[first] - score[second]) == np.sign(truth[first] - truth[second])
        right.append(int((differs & alike).sum()))
        total.append(int(differs.sum()))
    return np.array(right), np.array(total)


def with_ties(scores: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
    """Share of pairs in the true order, where equal scores count as half a pair. NaN orders nothing."""
    right, total = pair_counts(scores, truths)
    ties = 0
    for score, truth in zip(scores, truths, strict=True):
        first, second = np.triu_indices(len(truth), k=1)
        ties += int(((truth[first] != truth[second]) & (score[first] == score[second])).sum())
    return float((right.sum() + ties / 2) / total.sum())


def calibration(arm: Arm, truths: Sequence[np.ndarray]) -> dict[str, float]:
    """Log loss, in nats, and calibration error of preferences, by links fitted on the other half of the groups.

    `with_std`: the same where the link also knows each score's standard deviation.
    """
    found: dict[str, float] = {}
    halves = [[i for i in range(len(truths)) if i % 2 == half] for half in (0, 1)]
    for name, stds in (("", None), ("with_std ", arm.std)):
        if name and stds is None:
            continue
        preferred = []
        for fitted, held in ((0, 1), (1, 0)):
            d, v, y = _pairs(arm, truths, halves[fitted], stds)
            link = fit_pair_link(d, v, y)
            d, v, y = _pairs(arm, truths, halves[held], stds)
            p = link.probability(d, v)
            preferred.append(np.where(y > 0.5, p, 1 - p))
        p = np.concatenate(preferred)
        found[f"{name}log loss"] = log_loss(p)
        found[f"{name}calibration error"] = expected_calibration_error(p)
    return found


def _pairs(
    arm: Arm, truths: Sequence[np.ndarray], chosen: Sequence[int], stds: Sequence[np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences, variances and outcomes of the pairs of some groups whose truth differs."""
    d, v, y = [], [], []
    for i in chosen:
        score, truth = arm.scores[OVERALL][i], truths[i]
        first, second = np.triu_indices(len(truth), k=1)
        used = (truth[first] != truth[second]) & np.isfinite(score[first] - score[second])
        first, second = first[used], second[used]
        d.append(score[first] - score[second])
        variance = np.zeros(len(truth)) if stds is None else np.nan_to_num(stds[i]) ** 2
        v.append(np.stack([variance[first], variance[second]], axis=1))
        y.append((truth[first] > truth[second]).astype(float))
    return np.concatenate(d), np.concatenate(v), np.concatenate(y)


def uncertainty(arm: Arm, truths: Sequence[np.ndarray]) -> float | None:
    """Rank correlation of the standard deviation and the size of the error, after a line through all scores."""
    if arm.std is None:
        return None
    score, std, truth = (np.concatenate(one) for one in (arm.scores[OVERALL], arm.std, truths))
    used = np.isfinite(score) & np.isfinite(std)
    slope, offset = np.polyfit(score[used], truth[used], 1)
    return rank_correlation(std[used], np.abs(slope * score[used] + offset - truth[used]))


def report(records: Mapping[str, Sequence[Mapping[str, Any]]], groups: Sequence[SimulatedGroup]) -> str:
    """The tables as Markdown."""
    arms, truths = arms_of(records, groups), truths_of(groups)
    counted = {name: pair_counts(arm.scores[OVERALL], truths[OVERALL]) for name, arm in arms.items()}
    edits = sum(len(group.candidates) for group in groups)
    pairs = int(next(iter(counted.values()))[1].sum())
    lines = [
        f"The first {len(groups)} groups of the test set, {edits} edits, {pairs:,} pairs.",
        "",
        "| scorer | pairs, % | a tie as half, % | "
        "instruction following, % | visual quality, % | order of 3, % | log loss | calibration "
        "error, % | log loss with std | std tells errors | unscored | s an edit | MFLOP an edit |",
        "|" + "---|" * 13,
    ]
    for name, arm in arms.items():
        scores = arm.scores[OVERALL]
        complete = [i for i, one in enumerate(scores) if np.isfinite(one).all()]
        ranked = strict_ranking_accuracy([scores[i] for i in complete], [truths[OVERALL][i] for i in complete], 3)
        told, spread = calibration(arm, truths[OVERALL]), uncertainty(arm, truths[OVERALL])
        shares = [share_of(*pair_counts(arm.scores[one], truths[one])) for one in (OVERALL, FOLLOWING, QUALITY)]
        of_std = told.get("with_std log loss")
        lines.append(
            f"| {name} | {_range(shares[0])} | {100 * with_ties(scores, truths[OVERALL]):.1f} | "
            f"{100 * shares[1].value:.1f} | {100 * shares[2].value:.1f} | "
            f"{100 * ranked.value:.1f} | {told['log loss']:.3f} | {100 * told['calibration error']:.1f} | "
            f"{'–' if of_std is None else f'{of_std:.3f}'} | {'–' if spread is None else f'{spread:.2f}'} | "
            f"{int(np.isnan(np.concatenate(scores)).sum())} | {arm.seconds:.3f} | {arm.flops / 1e6:,.0f} |"
        )
    lines += ["", "| difference in pairs | points | p |", "|---|---|---|"]
    most = f"sample, {CLAIMED}"
    for first, second in (
        (most, "sample, 1"),
        (most, "greedy"),
        (f"sample, {max(PASSES)}", most),
        ("expected", most),
        ("gaussian", most),
        ("expected", "gaussian"),
        (f"gaussian and {most}", "gaussian"),
        ("gaussian and expected", "gaussian"),
    ):
        if first not in counted or second not in counted:
            continue
        (a, total), (b, _) = counted[first], counted[second]
        found = _difference(a, b, total)
        interval = f"{100 * found.low:.1f} to {100 * found.high:.1f}"
        lines.append(f"| {first} – {second} | {100 * found.difference:+.1f} ({interval}) | {found.p_value:.2g} |")
    if most not in counted:
        return "\n".join(lines)
    verdict = _verdict(_difference(counted[most][0], counted["sample, 1"][0], counted[most][1]))
    lines += ["", f"The claim that {CLAIMED} passes are more accurate than one: **{verdict}**.", ""]
    return "\n".join([*lines, *reasons_table(records["sample"], groups)])


def reasons_table(
    records: Sequence[Mapping[str, Any]], groups: Sequence[SimulatedGroup], passes: int = 4
) -> list[str]:
    """How many reasons of instruction following are kept, and how many of these tell the true change, by rule."""
    rules: dict[str, Callable[[list[float], float], list[int]]] = {
        "the first answer": lambda scores, truth: [0],
        "agree with each other": lambda scores, truth: _agreeing(scores),
        "agree with people": lambda scores, truth: _near(scores, range(len(scores)), truth),
        "agree with both (`editreward rationales`)": lambda scores, truth: _near(scores, _agreeing(scores), truth),
    }
    kept = {name: [0, 0, 0] for name in rules}
    for record, group in zip(records, groups, strict=True):
        for told, candidate in zip(record["candidates"], group.candidates, strict=False):
            used = told["passes"][:passes] if told else []
            scores = [min(v for k, v in one["sub_scores"].items() if k.startswith("IF.")) for one in used]
            for name, rule in rules.items():
                chosen = rule(scores, candidate.scores[FOLLOWING]) if scores else []
                kept[name][0] += 1
                if chosen:
                    kept[name][1] += 1
                    kept[name][2] += used[chosen[0]]["reasons"].get("IF", "") == candidate.change
    return [
        f"| of {passes} answers, those that | kept, % | of these tell the true change, % |",
        "|---|---|---|",
        *(
            f"| {name} | {100 * count / max(1, total):.1f} | {100 * right / max(1, count):.1f} |"
            for name, (total, count, right) in kept.items()
        ),
    ]


def _agreeing(scores: Sequence[float]) -> list[int]:
    """Answers that agree with each other, those nearest to their median first."""
    rule, middle = Rule(), float(np.median(scores))
    near = [i for i, score in enumerate(scores) if abs(score - middle) <= rule.spread]
    return sorted(near, key=lambda i: abs(scores[i] - middle)) if len(near) >= rule.share * len(scores) else []


def _near(scores: Sequence[float], among: Iterable[int], truth: float) -> list[int]:
    """Answers that agree with people, the nearest first."""
    return sorted(
        (i for i in among if abs(scores[i] - truth) <= Rule().distance), key=lambda i: abs(scores[i] - truth)
    )


def _difference(first: np.ndarray, second: np.ndarray, totals: np.ndarray) -> PairedDifference:
    """Difference of two shares of pairs, with an interval that resamples groups."""
    index = np.repeat(np.arange(len(totals)), totals)
    rows = [np.concatenate([np.arange(n) < k for k, n in zip(one, totals, strict=True)]) for one in (first, second)]
    return compare_shares(rows[0], rows[1], index.tolist())


def _verdict(difference: PairedDifference) -> str:
    if difference.low > 0:
        return "confirmed"
    return "refuted" if difference.high < 0.01 else "undecided"


def _range(share: Share) -> str:
    return f"{100 * share.value:.1f} ({100 * share.low:.1f} to {100 * share.high:.1f})"


if __name__ == "__main__":
    main()
