"""What chance reaches on tuples, in closed form.

There are two kinds of chance. *Random scores* are what a reward model without any knowledge gives: independent and
continuous, hence transitive, and they get the tie threshold that any model gets. *A coin* is what a judge gives that
answers each pair by itself: its answers need not fit together, and it has no threshold to tune.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import factorial

import numpy as np


@dataclass(frozen=True)
class Floor:
    """Expected shares of right tuples.

    Attributes:
        by_k: for each K, 0 to 1.
        overall: of the pool of all tuples; NaN without a tuple.
        tuples: number of tuples of each K.
    """

    by_k: dict[int, float]
    overall: float
    tuples: dict[int, int]


def random_scores_floor(tuples: Mapping[int, int], ties: int = 0) -> Floor:
    """Expected strict accuracy of random scores.

    For K = 3 and more, one of K! orders is right: 1 / K!. For K = 2 see [`tuned_random_accuracy`].

    Args:
        tuples: number of tuples of each K, such as {2: 186, 3: 150, 4: 148}.
        ties: number of the tuples of K = 2 whose truth is a tie.

    Raises:
        ValueError: K below 2, or more ties than tuples of two.
    """
    by_k = {k: 1 / factorial(k) for k in _checked(tuples)}
    if 2 in by_k:
        by_k[2] = tuned_random_accuracy(tuples[2], ties)
    return _floor(by_k, tuples)


def tuned_random_accuracy(pairs: int, ties: int) -> float:
    """Expected accuracy with ties of random scores, at the threshold that is best for the pairs.

    As the threshold grows past one pair after the other, in random order, a tie is won (+1), a pair that was ordered
    right is lost (-1), and one that was ordered wrong changes nothing. The best threshold reaches the maximum of this
    walk S, whose steps are exchangeable, so that Spitzer's identity (1956, theorem 3.1 and its combinatorial proof)
    gives its mean, E[max S] = sum over k of E[max(S_k, 0)] / k. With h ties among the first k = h + r pairs, of which
    the others were ordered right with probability 1/2 each, S_k = h - B(r, 1/2), and h is hypergeometric:

        E[accuracy] = (r_all / 2 + sum over (h, r) of P(h | k) E[max(h - B(r, 1/2), 0)] / k) / n

    For many pairs it tends to max(t, (1 - t) / 2), where t is the share of ties: all or nothing tied. That is never
    below 1/3.

    Args:
        pairs: n, number of pairs.
        ties: number of them whose truth is a tie.

    Returns:
        The expectation, 0 to 1; NaN without a pair. Time and memory are ties x (pairs - ties).

    Raises:
        ValueError: more ties than pairs, or fewer than none.
    """
    if not 0 <= ties <= pairs:
        raise ValueError(f"{ties} of {pairs} pairs cannot be ties")
    if not pairs:
        return float("nan")
    others = pairs - ties
    # positive[h] = E[max(h - B(r, 1/2), 0)], for one r after the other: each of the others is ordered right or not.
    positive = np.arange(ties + 1, dtype=float)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, pairs + 1)))])

    def log_choose(n: int, k: np.ndarray) -> np.ndarray:
        return log_factorial[n] - log_factorial[k] - log_factorial[n - k]

    h = np.arange(ties + 1)
    maximum = 0.0
    for r in range(others + 1):
        k = h + r
        chance = np.exp(log_choose(ties, h) + log_choose(others, np.array(r)) - log_choose(pairs, k))
        maximum += float((chance * positive / np.maximum(k, 1)).sum())
        positive[1:] = (positive[1:] + positive[:-1]) / 2
    return (others / 2 + maximum) / pairs


def coin_floor(tuples: Mapping[int, int], ties: int = 0, verdicts: int = 4) -> Floor:
    """Expected strict accuracy of a judge that answers every pair at random, independent of all others.

    For K = 2 one of the verdicts is right, 1 / verdicts, unless people saw a tie: all verdicts but better and worse
    say so, and none of these is told from another. For K = 3 and more the K (K - 1) / 2 answers are better or worse
    and all have to be right: 1 / 2^(K (K - 1) / 2). Many of them contradict each other, so this is less than the
    1 / K! of random scores.

    Args:
        tuples: number of tuples of each K.
        ties: number of the tuples of K = 2 whose truth is a tie; 0 where "both good" has to be told from "both bad",
            too, so that one verdict is right whatever the truth.
        verdicts: how many answers there are for K = 2. EditReward-Bench and GenAI-Bench have 4 (better, worse, both
            good, both bad); 3 with one kind of tie.

    Raises:
        ValueError: K or `verdicts` below 2, or more ties than tuples of two.
    """
    if verdicts < 2:
        raise ValueError(f"{verdicts} verdicts leave nothing to choose")
    if not 0 <= ties <= tuples.get(2, 0):
        raise ValueError(f"{ties} of {tuples.get(2, 0)} pairs cannot be ties")
    by_k = {k: 0.5 ** (k * (k - 1) // 2) for k in _checked(tuples)}
    if 2 in by_k:
        by_k[2] = (1 + ties / max(1, tuples[2]) * (verdicts - 3)) / verdicts
    return _floor(by_k, tuples)


def _checked(tuples: Mapping[int, int]) -> list[int]:
    for k in tuples:
        if k < 2:
            raise ValueError(f"a tuple of {k} has no pairs")
    return sorted(tuples)


def _floor(by_k: dict[int, float], tuples: Mapping[int, int]) -> Floor:
    total = sum(tuples.values())
    # A K without tuples may have no floor, and has no weight.
    pooled = sum(share * tuples[k] for k, share in by_k.items() if tuples[k])
    return Floor(by_k, pooled / total if total else float("nan"), dict(tuples))
