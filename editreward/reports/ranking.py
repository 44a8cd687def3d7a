"""Rankings as plain text."""

from collections.abc import Sequence

from editreward.scorers.reward_model import BestEdit
from editreward.statistics.preferences import percent


def ranking_table(names: Sequence[str], best: BestEdit) -> str:
    """Table of one group, best candidate first.

    Args:
        names: what to call each candidate, in the order in which they were scored.
        best: the scored group.

    Returns:
        Aligned lines: rank, name, every dimension with its scale, reward, and the probability to be the best. What
        follows a ± is a standard deviation.
    """
    header = ["rank", "edited image"]
    for name, value in best.scores[0].dimensions.items():
        header.append(f"{name.replace('_', ' ')} ({'1..4' if value.calibrated else 'uncalibrated'})")
    rows = [[*header, "reward", "P(best)"]]
    for index in best.order:
        score = best.scores[index]
        cells = [f"{value.mean:.2f} ± {value.std:.2f}" for value in score.dimensions.values()]
        cells += [f"{score.reward:.3f} ± {score.reward_std:.3f}", percent(best.probabilities[index])]
        rows.append([str(best.ranks[index]), names[index], *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return "\n".join("  ".join(row).rstrip() for row in padded)
