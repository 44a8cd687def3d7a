"""Runs the stresses over a scorer."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from editreward.benchmarks.robustness.changes import preparation
from editreward.benchmarks.robustness.data import BestEdits, Labels, StressData, labels_of
from editreward.benchmarks.robustness.measures import Finding, StressedGroup, find, units_of
from editreward.benchmarks.robustness.report import RobustnessResult
from editreward.benchmarks.robustness.stresses import STRESSES, Stress
from editreward.benchmarks.runner import GroupRecord, Inspection, Runner
from editreward.groups import GroupScores, Scorer, Unscored
from editreward.groups.rows import GroupRows


def run_robustness(
    data: StressData, scorer: Scorer, runner: Runner, stresses: Sequence[Stress] = STRESSES
) -> RobustnessResult:
    """Put a scorer under stress. Every process gets the result.

    Args:
        data: the groups.
        scorer: who scores.
        runner: cache, processes and progress bars.
        stresses: which; those that the data don't allow are listed as not applicable.

    Raises:
        ValueError: fewer than two groups can be judged or are answered, or no group has two edits.
    """
    inspection = runner.inspect(data.rows)
    records = inspection.groups
    _check_number(len(records), f"{data.name} has", "that can be judged")
    labels = {
        row["group_id"]: labels_of(records[row["group_id"]], row) for row in data.rows if row["group_id"] in records
    }
    asking = _Asking(data, scorer, runner, records, labels)
    before, unanswered = _parted(runner.score(data.rows, list(records.values()), scorer))
    _check_number(len(before), f"{scorer.name} answers", f"of {data.name}")
    units, constant = units_of(list(before.values()))
    answers: dict[str, Mapping[str, GroupScores]] = {"as they are": before}
    findings = []
    for stress in stresses:
        found = asking.scores(stress)
        if found is None:
            findings.append(Finding(stress, 0, {}, {}, None, {}))
            continue
        after, reasons = _parted(found)
        groups = [StressedGroup(before[name], after[name], labels[name]) for name in before if name in after]
        _check_number(len(groups), f"{scorer.name} answers", f'under the stress "{stress.name}"')
        answers[stress.name] = after
        findings.append(replace(find(stress, groups, units, data.source_score), unanswered=reasons))
    notes = [f"Within groups every edit has the same {name} score: its shifts have no unit." for name in constant]
    unlabelled = sum(not labels[name].known for name in before)
    if unlabelled:
        notes.append(f"{unlabelled:,} groups have no labels: all their pairs count, and their first edit is the best.")
    return RobustnessResult(
        model={
            "name": scorer.name,
            "revision": getattr(scorer, "revision", None),
            "notes": list(getattr(scorer, "notes", ())),
            "fingerprint": scorer.fingerprint,
        },
        data=_about_data(data, inspection, before, unanswered),
        findings=findings,
        units=units,
        notes=notes,
        environment=runner.environment(),
        answers=answers,
    )


def _about_data(
    data: StressData, inspection: Inspection, before: Mapping[str, GroupScores], unanswered: Mapping[str, str]
) -> dict[str, object]:
    return {
        "name": data.name,
        "sha256": inspection.digest,
        "groups": len(before),
        "edits": sum(len(scores.overall) for scores in before.values()),
        "groups_left_out": inspection.left_out,
        "not_answered": dict(unanswered),
        "faults": dict(Counter(fault.kind for fault in inspection.faults)),
    }


@dataclass
class _Asking:
    """Asks a scorer for its scores under stresses."""

    data: StressData
    scorer: Scorer
    runner: Runner
    records: Mapping[str, GroupRecord]
    labels: Mapping[str, Labels]
    best: BestEdits = field(init=False)
    best_records: Mapping[str, GroupRecord] | None = None

    def __post_init__(self) -> None:
        self.best = BestEdits(self.data.rows, {name: labels.best for name, labels in self.labels.items()})

    def scores(self, stress: Stress) -> dict[str, GroupScores | Unscored] | None:
        """By group id; None where the data don't allow the stress."""
        rows, records = self._groups(stress)
        instructions = stress.instructions(self.data, list(records.values())) if stress.instructions else None
        if not records or (stress.instructions and instructions is None):
            return None
        groups = [record for name, record in records.items() if instructions is None or name in instructions]
        change = preparation(stress.change) if stress.change else None
        return self.runner.score(rows, groups, self.scorer, instructions, change)

    def _groups(self, stress: Stress) -> tuple[GroupRows, Mapping[str, GroupRecord]]:
        """What is scored: the groups, their best edits, or groups of rising strength."""
        if not stress.levels:
            return self.data.rows, self.records
        if stress.change is None:
            rows = self.data.levels.get(stress.name, ())
            return rows, self.runner.inspect(rows).groups
        if self.best_records is None:
            self.best_records = self.runner.inspect(self.best).groups
        return self.best, self.best_records


def _check_number(groups: int, before: str, after: str) -> None:
    if groups < 2:
        raise ValueError(f"{before} {groups} groups {after}: intervals over groups need two or more.")


def _parted(found: Mapping[str, GroupScores | Unscored]) -> tuple[dict[str, GroupScores], dict[str, str]]:
    """The answers, and the reasons why there is none."""
    answers = {name: answer for name, answer in found.items() if isinstance(answer, GroupScores)}
    return answers, {name: answer.reason for name, answer in found.items() if isinstance(answer, Unscored)}
