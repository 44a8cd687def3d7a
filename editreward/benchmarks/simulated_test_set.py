"""Evaluation on a set of simulated groups, whose scores are exact. (The benchmark `simulated` is another thing.)"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from editreward.groups import EditGroup, GroupScores, Scorer
from editreward.scorers.registry import check_answers, complete_scores
from editreward.simulation import WORLDS, SimulatedGroup, groups_hash, novelty_in_words, simulate_groups
from editreward.simulation.rubric import asked_of, exact_following
from editreward.statistics import Share, pair_accuracy, strict_ranking_accuracy

OVERALL = "overall"
VISUAL_QUALITY = "visual_quality"

T = TypeVar("T")


def read_description(kind: type[T], path: str | Path, what: str, example: str) -> T:
    """A dataclass from a JSON file with its fields, of which `world` may be left out.

    Args:
        kind: the dataclass.
        path: of the file.
        what, example: what it describes, and a file that does so, for errors.

    Raises:
        ValueError: it has other fields; they are named.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(values, dict) or set(values) | {"world"} != names:
        found = ", ".join(sorted(values)) if isinstance(values, dict) else f"a {type(values).__name__}"
        needed = ", ".join(sorted(names - {"world"}))
        raise ValueError(
            f"{path} does not describe {what}: it holds {found}. It needs {needed}, as {example} has them."
        )
    return kind(**values)


@dataclass(frozen=True)
class TestSet:
    """A set of simulated groups, identified by what makes it and by a hash of what comes out.

    Attributes:
        split, groups, candidates, size, seed, world: arguments of `simulate_groups`.
        sha256: `groups_hash` of it.
    """

    __test__ = False  # not a test class, whatever pytest makes of the name

    split: str
    groups: int
    candidates: int
    size: int
    seed: int
    sha256: str
    world: str = "shapes"

    @classmethod
    def from_json(cls, path: str | Path) -> "TestSet":
        """Read the description from a JSON file.

        Raises:
            ValueError: it has other fields; they are named.
        """
        return read_description(cls, path, "a simulated test set", "configs/simulated_test_set.json")

    def load(self) -> list[SimulatedGroup]:
        """Make the groups.

        Raises:
            ValueError: they are not those that were hashed. Pillow's and numpy's versions have a small influence.
        """
        groups = list(
            simulate_groups(self.groups, self.split, self.seed, self.candidates, self.size, world=self.world)
        )
        found = groups_hash(groups)
        if found != self.sha256:
            raise ValueError(
                f"The simulated test set has the hash {found}, not {self.sha256}: the generator, Pillow or numpy has "
                "changed, and its results cannot be compared with earlier ones."
            )
        return groups


@dataclass(frozen=True)
class Judgements:
    """Scores of groups and the truth. All lists are per group, arrays of shape (candidates,) within."""

    reward: list[np.ndarray]
    mean: dict[str, list[np.ndarray]]
    std: dict[str, list[np.ndarray]]
    truth: dict[str, list[np.ndarray]]

    def series(self, name: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Scores and truth of a dimension, or of the reward against the sum of the dimensions (`overall`)."""
        if name == OVERALL:
            return self.reward, [np.sum(truths, axis=0) for truths in zip(*self.truth.values(), strict=True)]
        return self.mean[name], self.truth[name]


def judge(
    scorer: Scorer, groups: Sequence[SimulatedGroup], instructions: Sequence[str] | None = None, batch: int = 64
) -> Judgements:
    """Score simulated groups.

    Args:
        scorer: any scorer. Where it is calibrated, means and standard deviations are.
        groups: what to score.
        instructions: instructions to show instead of the groups' own.
        batch: groups of one call.

    Raises:
        ValueError: the scorer could not score a group, or does not keep to its interface.
    """
    shown = instructions or [group.instruction for group in groups]
    asked = [
        EditGroup([group.source], instruction, [candidate.image for candidate in group.candidates], group.group_id)
        for group, instruction in zip(groups, shown, strict=True)
    ]
    scored: list[GroupScores] = []
    for start in range(0, len(asked), batch):
        chunk = asked[start : start + batch]
        answers = scorer(chunk)
        check_answers(scorer, chunk, answers)
        scored += [complete_scores(scorer, group, answer) for group, answer in zip(chunk, answers, strict=True)]
    return Judgements(
        reward=[np.array(one.overall) for one in scored],
        mean={name: [np.array(one.dimensions[name]) for one in scored] for name in scorer.dimensions},
        std={name: [np.array(one.stds[name]) for one in scored if name in one.stds] for name in scorer.dimensions},
        truth={
            name: [np.array([c.scores[name] for c in group.candidates], dtype=float) for group in groups]
            for name in groups[0].candidates[0].scores
        },
    )


def shuffled_order(number: int, seed: int = 0) -> list[int]:
    """For each of so many groups another one, whose instruction it gets."""
    order = np.random.default_rng(seed).permutation(number)
    taken = np.empty(number, dtype=int)
    taken[order] = np.roll(order, 1)
    return [int(index) for index in taken]


def shuffled_instructions(groups: Sequence[SimulatedGroup], seed: int = 0) -> list[str]:
    """Each group's instruction from another group of the set: the control for reading the instruction at all."""
    return [groups[index].instruction for index in shuffled_order(len(groups), seed)]


def exact_scores(groups: Sequence[SimulatedGroup], asked: Sequence[int]) -> list[np.ndarray]:
    """Instruction following by the rule, of each group's edits under the instruction of another group.

    Args:
        groups: the groups.
        asked: for each the number of the one whose instruction is shown.
    """
    found = []
    for group, other in zip(groups, asked, strict=True):
        task = asked_of(groups[other].task, group.scene)
        found.append(np.array([exact_following(task, group.scene, edit.scene) for edit in group.candidates]))
    return found


def evaluate(judgements: Judgements, groups: Sequence[SimulatedGroup]) -> dict[str, Any]:
    """Pair accuracy overall and per dimension, by category, language, novelty and gap; strict ranking of 3 and 4.

    In the collage world a group counts for each of its novelties. Visual quality also by artefact: of the clean edits
    and those that have it.
    """
    names = [OVERALL, *(name for name in judgements.mean if name in judgements.truth)]
    subsets: dict[str, dict[str, list[int]]] = {
        "category": _by([group.category for group in groups]),
        "language": _by([group.language for group in groups]),
        "novelty": _by_novelty(groups),
    }
    result: dict[str, Any] = {"groups": len(groups)}
    for name in names:
        scores, truths = judgements.series(name)
        gaps = sorted({float(abs(a - b)) for truth in truths for a in truth for b in truth if a != b})
        result[name] = {
            "accuracy": asdict(pair_accuracy(scores, truths)),
            "by_gap": {f"{g:g}": asdict(pair_accuracy(scores, truths, lambda d, g=g: d == g)) for g in gaps},  # type: ignore[misc]
        }
        for subset, members in subsets.items():
            result[name][f"by_{subset}"] = {
                value: asdict(pair_accuracy([scores[i] for i in chosen], [truths[i] for i in chosen]))
                for value, chosen in members.items()
            }
    if VISUAL_QUALITY in result:
        result[VISUAL_QUALITY]["by_artefact"] = _by_artefact(groups, *judgements.series(VISUAL_QUALITY))
    scores, truths = judgements.series(OVERALL)
    result["strict_ranking"] = {f"{k}": asdict(strict_ranking_accuracy(scores, truths, k)) for k in (3, 4)}
    return result


def _by_artefact(
    groups: Sequence[SimulatedGroup], scores: Sequence[np.ndarray], truths: Sequence[np.ndarray]
) -> dict[str, dict[str, Any]]:
    """The accuracy among the clean edits of each group and those with an artefact, by artefact."""
    kinds = [np.array([edit.artefact or "" for edit in group.candidates]) for group in groups]
    found = {}
    for name in sorted({str(kind) for of in kinds for kind in of if kind}):
        kept = [(of == name) | (of == "") for of in kinds]
        of_scores, of_truths = (
            [value[mask] for value, mask in zip(values, kept, strict=True)] for values in (scores, truths)
        )
        found[name] = asdict(pair_accuracy(of_scores, of_truths))
    return found


def _by(values: Sequence[str]) -> dict[str, list[int]]:
    return {value: [i for i, other in enumerate(values) if other == value] for value in sorted(set(values))}


def novelties(group: SimulatedGroup) -> list[str]:
    """What of a group occurs only in the test split, each in words; "nothing unseen" where all is known.

    In the world of shapes it is one phrase for wording and combination together.
    """
    if group.world == "shapes":
        return [novelty(group)]
    kinds = ("wording", *WORLDS[group.world].novelties)
    return [f"unseen {kind}" for kind in kinds if getattr(group, f"unseen_{kind}")] or ["nothing unseen"]


def _by_novelty(groups: Sequence[SimulatedGroup]) -> dict[str, list[int]]:
    found = [novelties(group) for group in groups]
    return {value: [i for i, own in enumerate(found) if value in own] for value in sorted(set(sum(found, [])))}


def novelty(group: SimulatedGroup) -> str:
    """Which of a group's wording and combination occur only in the test split, in words."""
    return novelty_in_words(group.unseen_wording, group.unseen_combination)


def report_table(result: dict[str, Any]) -> str:
    """The result of `evaluate` as Markdown."""
    names = [name for name, value in result.items() if isinstance(value, dict) and "accuracy" in value]
    rows = [("all", [result[name]["accuracy"] for name in names])]
    for key in ("by_category", "by_language", "by_novelty"):
        rows += [(value, [result[name][key][value] for name in names]) for value in result[OVERALL][key]]
    damage = result.get(VISUAL_QUALITY, {}).get("by_artefact", {})
    rows += [
        (f"clean, {kind}", [damage[kind] if name == VISUAL_QUALITY else None for name in names]) for kind in damage
    ]
    gaps = sorted({gap for name in names for gap in result[name]["by_gap"]}, key=float)
    rows += [(f"scores {gap} apart", [result[name]["by_gap"].get(gap) for name in names]) for gap in gaps]
    lines = [f"| pairs | {' | '.join(name.replace('_', ' ') for name in names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {label} | {' | '.join(_cell(share) for share in shares)} |" for label, shares in rows]
    ranked = ", ".join(f"K = {k}: {Share(**share)}" for k, share in result["strict_ranking"].items())
    return "\n".join([*lines, "", f"Strict ranking by the reward, chance 1/K!: {ranked}."])


def _cell(share: dict[str, Any] | None) -> str:
    return "-" if share is None else str(Share(**share))
