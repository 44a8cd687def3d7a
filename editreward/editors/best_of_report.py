"""What more candidates are worth, how sure the choices were, and where the scorer was optimised too far."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from editreward.data.edit_sources import GroupSource
from editreward.data.images import thumbnail
from editreward.files import write_json
from editreward.groups import Scorer
from editreward.groups.rows import GroupRow
from editreward.reports.page import Example, Page, Picture, Plot, Section, Table
from editreward.reports.plots import lines_plot
from editreward.statistics.best_of import Fall, curve, doublings, expected_best, fall
from editreward.statistics.estimate import Estimate, Share
from editreward.statistics.resampling import share_of_rows

if TYPE_CHECKING:
    from pathlib import Path

    from editreward.editors.best_of import BestOf, Choice

SURE = (0.5, 0.8, 0.9, 0.95)
"""Probabilities of being the best from which on choices are counted as sure."""

SHOWN = 4
"""Groups that are shown of each kind."""

FAILURES_LISTED = 10
SCORE, TRUTH, SECOND = "score", "truth", "second scorer"
MEASURES: Mapping[str, Callable[["Choice"], Sequence[float]]] = {
    SCORE: lambda choice: choice.scores,
    TRUTH: lambda choice: choice.truth,
    SECOND: lambda choice: choice.second,
}
"""What a choice may be judged by: a number for each candidate, none where it is not known."""


@dataclass(frozen=True)
class Sure:
    """Choices with at least a probability of being the best.

    Attributes:
        least: the probability.
        share: of all choices.
        came_true: of those, the share in which no candidate has a higher truth; None without truth.
    """

    least: float
    share: Share
    came_true: Share | None


@dataclass
class Report:
    """What a choice of the best of N says about N.

    Attributes:
        scorer, second, source, notes: who chose, who judged, of what; what a reader must know of the scorer.
        rule: what chose, in words.
        groups: in the curve of each measure: those with `numbers` scored candidates or more of which it is known.
        numbers: the largest N.
        curves: by measure and by what chose, the mean over groups for N = 1, 2, ...
        gains: by measure, what each doubling of N adds.
        falls: by measure, where the best of all is worse than the best of fewer; None: nowhere.
        sure: how many choices were how sure; empty without probabilities.
        agreement: share of groups in which no candidate has a higher truth, or score of the second scorer.
        seconds: mean time of an image by editor.
        repeated: candidates with the pixels of another of their group, where that is known.
    """

    scorer: str
    second: str | None
    source: str
    notes: Sequence[str]
    rule: str
    groups: Mapping[str, int]
    numbers: int
    curves: Mapping[str, Mapping[str, Sequence[Estimate]]]
    gains: Mapping[str, Sequence[Estimate]]
    falls: Mapping[str, Fall | None]
    sure: Sequence[Sure]
    agreement: Mapping[str, Share]
    seconds: Mapping[str, float]
    repeated: int = 0
    shown: Mapping[str, Sequence["Choice"]] = field(default_factory=dict)
    pictures: dict[int, list[Picture]] = field(default_factory=dict)

    def take(self, choice: "Choice", row: GroupRow) -> None:
        """Keep the pictures of a group, if it is one that is shown."""
        if not any(choice in chosen for chosen in self.shown.values()):
            return
        wanted = {choice.best: "Chosen", 0: "The first candidate"}
        for name, values in ((TRUTH, choice.truth), (SECOND, choice.second)):
            if values:
                wanted.setdefault(int(np.argmax(values)), f"Best by the {name}")
        found = [Picture(thumbnail(row["source_images"][0]), "Source", [])]
        for index, what in sorted(wanted.items(), key=lambda one: one[1] != "Chosen"):
            image = row["candidates"][choice.places[index]]["image"]
            found.append(Picture(thumbnail(image), what, _told(choice, index)))
        self.pictures[choice.row] = found


def _told(choice: "Choice", index: int) -> list[str]:
    lines = [f"score {choice.scores[index]:.3f}"]
    if choice.stds:
        lines[0] += f", σ {choice.stds[index]:.3f}"
    for name, values in (("P(best)", choice.probabilities), (TRUTH, choice.truth), (SECOND, choice.second)):
        if values:
            lines.append(f"{name} {values[index]:.3f}")
    return lines


def report_of(
    choices: Sequence["Choice"], lower_bound: float, scorer: Scorer, second: Scorer | None, source: GroupSource
) -> Report:
    """What the choices say.

    Args:
        choices: one or more.
        lower_bound: standard deviations that were taken off.
        scorer, second: who chose and who judged.
        source: of the candidates.
    """
    numbers = reach([len(choice.places) for choice in choices])
    enough = [choice for choice in choices if len(choice.places) >= numbers]
    used = {name: [choice for choice in enough if values(choice)] for name, values in MEASURES.items()}
    used = {name: known for name, known in used.items() if known}
    sources = {name: [choice.source for choice in known] for name, known in used.items()}
    targets = {name: [MEASURES[name](choice) for choice in known] for name, known in used.items()}
    main = "by the lower bound" if lower_bound else "by the score"
    rules: dict[str, Callable[[Choice], Sequence[float]]] = {main: lambda choice: choice.keys}
    if lower_bound:
        rules["by the score"] = lambda choice: choice.scores
    worth = {
        name: {rule: _worth([keys(choice) for choice in used[name]], values, numbers) for rule, keys in rules.items()}
        for name, values in targets.items()
    }
    if TRUTH in worth:
        worth[TRUTH]["by the truth itself"] = _worth(targets[TRUTH], targets[TRUTH], numbers)
    judged = [name for name in worth if name != SCORE]
    seconds = source.seconds() if hasattr(source, "seconds") else {}
    return Report(
        scorer.name,
        None if second is None else second.name,
        source.name,
        scorer.notes,
        f"{main}, {lower_bound:g} standard deviations below the score" if lower_bound else main,
        {name: len(known) for name, known in used.items()},
        numbers,
        {name: {rule: curve(v, sources[name]) for rule, v in of_rule.items()} for name, of_rule in worth.items()},
        {name: _gains(of_rule[main], sources[name]) for name, of_rule in worth.items()},
        {name: fall(worth[name][main], sources[name]) for name in judged},
        _sure(choices),
        {name: _agreement(choices, MEASURES[name]) for name in judged},
        {name: float(np.mean(values)) for name, values in seconds.items() if values},
        getattr(source, "repeated", 0),
        _to_show(choices),
    )


def reach(counts: Sequence[int]) -> int:
    """The largest number of candidates that at least half of the groups have."""
    return sorted(counts, reverse=True)[(len(counts) - 1) // 2]


def _worth(keys: Sequence[Sequence[float]], values: Sequence[Sequence[float]], numbers: int) -> np.ndarray:
    """The value of the best of N by the keys in each group, shape (groups, numbers)."""
    return np.array([expected_best(k, v)[:numbers] for k, v in zip(keys, values, strict=True)])


def _gains(worth: np.ndarray, sources: Sequence[str]) -> list[Estimate]:
    places = [number - 1 for number in doublings(worth.shape[1])]
    return curve(np.diff(worth[:, places], axis=1), sources) if len(places) > 1 else []


def _sure(choices: Sequence["Choice"]) -> list[Sure]:
    told = [choice for choice in choices if choice.probabilities]
    if not told:
        return []
    sources = [choice.source for choice in told]
    chance = np.array([choice.probabilities[choice.best] for choice in told])
    known = np.array([bool(choice.truth) for choice in told])
    right = np.array([bool(choice.truth) and _is_best(choice, choice.truth) for choice in told])
    found = []
    for least in SURE:
        chosen = (chance >= least) & known
        came_true = share_of_rows(right[chosen], [s for s, one in zip(sources, chosen, strict=True) if one])
        found.append(Sure(least, share_of_rows(chance >= least, sources), came_true if known.any() else None))
    return found


def _is_best(choice: "Choice", values: Sequence[float]) -> bool:
    return values[choice.best] >= max(values)


def _agreement(choices: Sequence["Choice"], of: Callable[["Choice"], Sequence[float]]) -> Share:
    told = [choice for choice in choices if of(choice)]
    return share_of_rows([_is_best(choice, of(choice)) for choice in told], [choice.source for choice in told])


def _to_show(choices: Sequence["Choice"]) -> dict[str, Sequence["Choice"]]:
    """The surest and the least sure choices, and those that truth or second scorer think least of."""
    many = [choice for choice in choices if len(choice.places) > 1]
    by_surety = sorted(many, key=lambda choice: -_surety(choice))
    shown = {"The surest choices": by_surety[:SHOWN], "The least sure choices": by_surety[SHOWN:][-SHOWN:]}
    for name in (TRUTH, SECOND):
        of = MEASURES[name]
        lost = [(max(of(choice)) - of(choice)[choice.best], choice) for choice in many if of(choice)]
        worst = sorted((one for one in lost if one[0] > 0), key=lambda one: -one[0])[:SHOWN]
        shown[f"Where the {name} loses most"] = [choice for _, choice in worst]
    return {title: chosen for title, chosen in shown.items() if chosen}


def _surety(choice: "Choice") -> float:
    """The probability of the best, or by how much its key exceeds the next one."""
    if choice.probabilities:
        return choice.probabilities[choice.best]
    first, second = sorted(choice.keys, reverse=True)[:2]
    return first - second


def write_report(output: "Path", found: "BestOf") -> None:
    """Write `report.html`, `report.md`, `report.png` and `report.json`."""
    report = found.report
    text = [
        f"The best of up to {max(len(one.places) for one in found.choices)} candidates in {len(found.choices)} groups "
        f"of {report.source}, chosen {report.rule} of the scorer {report.scorer}.",
        *report.notes,
    ]
    if report.seconds:
        text.append(
            "An image took "
            + ", ".join(f"{seconds:.2f} s ({editor})" for editor, seconds in report.seconds.items())
            + " on average: N candidates cost N times as much."
        )
    if report.repeated:
        text.append(f"{report.repeated} candidates equal another of their group: the editor makes little of its seed.")
    sections = [_curves(report), _doublings(report), *_surety_section(report), *_failures(found), *_examples(report)]
    Page("The best of N", text, sections).write(output, "report")
    write_json(output / "report.json", as_json(found))


def _curves(report: Report) -> Section:
    counts = ", ".join(f"{count} ({name})" for name, count in report.groups.items())
    text = [
        f"The mean over groups, {counts}, exactly over all subsets of N candidates; intervals are 95 %, over "
        "sources. By the score itself the best of more is never worse: what counts is what judges the choice."
    ]
    if report.numbers == 1:
        return Section("What N is worth", ["Most groups have one candidate: nothing was chosen."])
    header, rows = ["N"], [[str(number)] for number in doublings(report.numbers)]
    for name, of_rule in report.curves.items():
        for rule, estimates in of_rule.items():
            header.append(f"{name}, {rule}")
            for row in rows:
                row.append(estimates[int(row[0]) - 1].text())
    panels = {name: {rule: list(values) for rule, values in of.items()} for name, of in report.curves.items()}
    alt = "; ".join(f"{head}: {first} to {last}" for head, first, last in zip(header, rows[0], rows[-1], strict=True))
    plot = Plot(
        "The best of N",
        alt,
        lambda figure, palette: lines_plot(figure, palette, panels, "candidates, N"),
        width=3.4 * len(panels) + 0.6,
    )
    return Section("What N is worth", text, [Table(header, rows, names=0)], [plot])


def _doublings(report: Report) -> Section:
    """What each doubling adds, and whether the scorer was optimised too far."""
    text = []
    for name, one in report.falls.items():
        if one is None:
            text.append(f"No fall of the {name} is seen up to N = {report.numbers}.")
        else:
            text.append(
                f"Over-optimised: the {name} of the best of {report.numbers} is below that of the best of "
                f"{one.number}, by {one.difference.text()}, p = {one.p_value:.3g}, while the score rises. Take fewer "
                "candidates, a lower bound, or another scorer."
            )
    if not report.falls:
        text.append(
            "Nothing but the scorer judges its choices: labels in the dataset, simulated editors or --second tell "
            "whether it was optimised too far."
        )
    numbers = doublings(report.numbers)
    steps = [f"{first} to {second}" for first, second in zip(numbers, numbers[1:], strict=False)]
    rows = [[step, *(gains[place].text() for gains in report.gains.values())] for place, step in enumerate(steps)]
    tables = [Table(["N", *report.gains], rows, "What each doubling adds")] if rows else []
    return Section("Over-optimisation", text, tables)


def _surety_section(report: Report) -> list[Section]:
    text = [
        f"The {name} has no better candidate in {share.text()} of groups." for name, share in report.agreement.items()
    ]
    if not report.sure:
        return [Section("How sure the choices were", [f"{report.scorer} gives no probabilities.", *text])]
    has_truth = any(one.came_true is not None for one in report.sure)
    header = ["P(best) of at least", "of choices", *(["best by the truth, too"] if has_truth else [])]
    rows = [
        [f"{one.least:g}", one.share.text(), *([one.came_true.text()] if one.came_true is not None else [])]
        for one in report.sure
    ]
    text.insert(0, "P(best) is the scorer's probability that no other candidate of the group is better.")
    return [Section("How sure the choices were", text, [Table(header, rows)])]


def _failures(found: "BestOf") -> list[Section]:
    sections = []
    for title, faults in (("Groups without a winner", found.failed), ("Candidates not made", found.generation)):
        if faults:
            rows = [list(fault) for fault in faults[:FAILURES_LISTED]]
            table = Table(["which", "why"], rows, names=2)
            sections.append(Section(title, [f"{len(faults)} in all; the first of them:"], [table]))
    return sections


def _examples(report: Report) -> list[Section]:
    sections = []
    for title, chosen in report.shown.items():
        examples = [
            Example(f"{one.group_id} ({one.category})", one.instruction, [], report.pictures[one.row])
            for one in chosen
            if one.row in report.pictures
        ]
        sections.append(Section(title, (), examples=examples))
    return sections


def as_json(found: "BestOf") -> dict[str, object]:
    """The numbers of the report; those that are undefined are null."""
    report = found.report
    plain = {
        "scorer": report.scorer,
        "second": report.second,
        "source": report.source,
        "chosen": report.rule,
        "winners": len(found.choices),
        "failed": dict(found.failed),
        "unscored_candidates": found.unscored,
        "groups_in_curves": dict(report.groups),
        "curves": {
            name: {rule: [asdict(one) for one in estimates] for rule, estimates in of_rule.items()}
            for name, of_rule in report.curves.items()
        },
        "falls": {name: None if one is None else asdict(one) for name, one in report.falls.items()},
        "sure": [asdict(one) for one in report.sure],
        "agreement": {name: asdict(share) for name, share in report.agreement.items()},
        "seconds_per_image": dict(report.seconds),
        "repeated_candidates": report.repeated,
    }
    return {name: _without_nan(value) for name, value in plain.items()}


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
