"""Is a mean difference of two methods more than chance? The sign-flip test, and how many cases would settle it."""

import math
from statistics import NormalDist

import numpy as np

from editreward.statistics.checks import finite

EXACT = 12
"""Up to so many cases all flips are computed."""

FLIPS = 10_000
FLIPS_AT_A_TIME = 500


def sign_flip_p_value(differences: np.ndarray, seed: int = 0) -> float:
    """Two-sided p-value of no difference: if there is none, each case's sign is a fair coin (Fisher 1935).

    Args:
        differences: of independent cases, such as sources, shape (cases,).
        seed: of the flips, where there are too many to try all.

    Returns:
        The share of flips whose sum is at least as far from 0, the one at hand among them; NaN without a case.

    Raises:
        ValueError: a difference is not finite; its row is named.
    """
    differences = finite("differences", differences)
    number = len(differences)
    if not number:
        return math.nan
    seen = abs(differences.sum()) * (1 - 1e-12)
    if number <= EXACT:
        signs = 1 - 2 * ((np.arange(2**number)[:, None] >> np.arange(number)) & 1)
        return float((np.abs(signs @ differences) >= seen).mean())
    rng = np.random.default_rng(seed)
    extreme = 0
    for _ in range(FLIPS // FLIPS_AT_A_TIME):
        signs = 1 - 2 * rng.integers(2, size=(FLIPS_AT_A_TIME, number))
        extreme += int((np.abs(signs @ differences) >= seen).sum())
    return (extreme + 1) / (FLIPS + 1)


def cases_needed(differences: np.ndarray, power: float = 0.8, level: float = 0.05) -> int | None:
    """How many cases a two-sided test needs to find the difference that was seen, by the normal approximation.

    Args:
        differences: of independent cases, shape (cases,).
        power: probability of finding it.
        level: of the test.

    Returns:
        The number of cases in all; None with fewer than two cases, or where their mean is 0.

    Raises:
        ValueError: a difference is not finite; its row is named.
    """
    differences = finite("differences", differences)
    if len(differences) < 2 or not differences.mean():
        return None
    normal = NormalDist()
    sum_of_quantiles = normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)
    return math.ceil((sum_of_quantiles * differences.std(ddof=1) / differences.mean()) ** 2)
