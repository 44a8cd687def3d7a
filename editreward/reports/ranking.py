"""Rankings as plain text."""

from collections.abc import Sequence

from editreward.groups import GroupScores
from editreward.reports.text import percent


def ranking_table(names: Sequence[str], scores: GroupScores) -> str:
    """Table of one group, best candidate first; candidates without a score follow, with the reason.

    Args:
        names: what to call each candidate, in the order in which they were scored.
        scores: of the group.

    Returns:
        Aligned lines: rank, name, the overall score where the scorer is calibrated, every dimension with its scale,
        raw reward, and the probability to be the best where the scorer gives it. What follows a ± is a calibrated
        standard deviation; others are not shown.
    """
    scored, ranks = scores.scored, scores.ranks
    header = ["rank", "edited image"]
    has_overall = bool(scored) and all(score.overall is not None for score in scored.values())
    if scored:
        header += ["overall (1..4)"] if has_overall else []
        for name, value in scored[scores.index].dimensions.items():
            header.append(f"{name.replace('_', ' ')} ({'1..4' if value.calibrated else 'uncalibrated'})")
    rows = [[*header, "reward", *(["P(best)"] if scores.probabilities else [])]]
    for index in scores.order:
        score = scored[index]
        cells = [str(score.overall)] if has_overall else []
        cells += [*map(str, score.dimensions.values()), f"{score.reward:.3f}"]
        if scores.probabilities:
            cells.append(percent(scores.probabilities[index]))
        rows.append([str(ranks[index]), names[index], *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines = ["  ".join(row).rstrip() for row in padded]
    return "\n".join([*lines, *(f"-     {names[index]}: {one.reason}" for index, one in scores.unscored.items())])


def reason_lines(names: Sequence[str], scores: GroupScores) -> list[str]:
    """What a scorer said of each candidate, in words, best candidate first; empty for one that says nothing.

    Whatever a model wrote is one line, without characters that move the cursor or colour a terminal.
    """
    lines = []
    for index in scores.order:
        for reason in scores.scored[index].reasons:
            shown = "".join(letter if letter.isprintable() else " " for letter in reason)
            lines.append(f"{names[index]}: {' '.join(shown.split())}")
    return lines
