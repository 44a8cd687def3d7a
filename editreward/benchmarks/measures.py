"""A number of a benchmark's result, written once: its estimate and its comparison with another scorer's come from it.

A protocol says what the cases of a measure are and which statistic of them it is. Estimate, interval and paired
difference follow, so that they cannot drift apart.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from editreward.statistics import (
    Estimate,
    PairedDifference,
    Share,
    bootstrap,
    compare,
    compare_shares,
    macro_share,
    mean_of_groups,
    share_of_rows,
)


class Statistic(Protocol):
    """From the values of rows to a number, with its interval, and to the difference of two scorers in it.

    What else a statistic needs of each row, such as people's score, it holds in the order of the rows.
    """

    def only(self, rows: np.ndarray) -> "Statistic":
        """The statistic of some rows, shape (any number,)."""
        ...

    def value(self, values: np.ndarray) -> float:
        """The number alone; NaN where it is undefined. Values are of shape (rows,)."""
        ...

    def estimate(self, values: np.ndarray, groups: Sequence[str]) -> Estimate:
        """The number with its interval, which resamples groups."""
        ...

    def difference(self, first: np.ndarray, second: np.ndarray, groups: Sequence[str]) -> PairedDifference:
        """The number of the first scorer minus that of the second, on the same rows."""
        ...


@dataclass(frozen=True)
class ShareOfRows:
    """The share of rows that are right (1, and not 0). Differences are tested by an exact permutation test."""

    def only(self, rows: np.ndarray) -> "ShareOfRows":
        return self

    def value(self, values: np.ndarray) -> float:
        return float(values.mean()) if len(values) else np.nan

    def estimate(self, values: np.ndarray, groups: Sequence[str]) -> Share:
        return share_of_rows(values, groups)

    def difference(self, first: np.ndarray, second: np.ndarray, groups: Sequence[str]) -> PairedDifference:
        return compare_shares(first, second, groups)


@dataclass(frozen=True, eq=False)
class StatisticOfRows:
    """Any statistic of rows. Differences are tested by the paired bootstrap.

    Attributes:
        function: from the values of some rows, and the same rows of each of `columns`, to a number. Rows can occur
            several times.
        columns: what else is known of each row, shape (rows,) each.
        has_interval: the estimate gets an interval; otherwise it is the bare number.
    """

    function: Callable[..., float]
    columns: tuple[np.ndarray, ...] = ()
    has_interval: bool = True

    def only(self, rows: np.ndarray) -> "StatisticOfRows":
        return StatisticOfRows(self.function, tuple(column[rows] for column in self.columns), self.has_interval)

    def value(self, values: np.ndarray) -> float:
        return float(self.function(values, *self.columns)) if len(values) else np.nan

    def estimate(self, values: np.ndarray, groups: Sequence[str]) -> Estimate:
        if not self.has_interval:
            return Estimate(self.value(values), np.nan, np.nan, len(values))
        return bootstrap(lambda rows: self._of(values[rows], rows), len(values), groups)

    def difference(self, first: np.ndarray, second: np.ndarray, groups: Sequence[str]) -> PairedDifference:
        return compare(self._of, first, second, groups)

    def _of(self, values: np.ndarray, rows: np.ndarray) -> float:
        return self.function(values, *(column[rows] for column in self.columns))


class MeanOfGroups(StatisticOfRows):
    """The mean of a number that each group has; a row is a group. In a resample a group counts as often as drawn."""

    def __init__(self) -> None:
        super().__init__(np.mean)

    def only(self, rows: np.ndarray) -> "MeanOfGroups":
        return self

    def estimate(self, values: np.ndarray, groups: Sequence[str]) -> Estimate:
        return mean_of_groups(values)


class MacroShare(StatisticOfRows):
    """The unweighted mean over labels of the share of rows that are right.

    Args:
        labels: of each row, shape (rows,).
    """

    def __init__(self, labels: np.ndarray) -> None:
        _, number = np.unique(labels, return_inverse=True)
        super().__init__(_mean_of_shares, (number,))

    def only(self, rows: np.ndarray) -> "MacroShare":
        return MacroShare(self.columns[0][rows])

    def estimate(self, values: np.ndarray, groups: Sequence[str]) -> Share:
        # The same number; resampled as sums by group and label, which is much faster.
        return macro_share(values, self.columns[0].tolist(), groups)


def _mean_of_shares(values: np.ndarray, labels: np.ndarray) -> float:
    totals = np.bincount(labels)
    return float((np.bincount(labels, values)[totals > 0] / totals[totals > 0]).mean())


SHARE = ShareOfRows()


@dataclass(frozen=True, eq=False)
class Cases:
    """What a measure is computed from, row by row.

    Attributes:
        keys: what each row is, the same for every scorer, such as (group id, dimension, first, second).
        groups: of each row, which are what is resampled.
        values: whether the scorer is right (1 or 0), or its score, or its probability, shape (rows,).
        statistic: from the values to the measure.
    """

    keys: Sequence[Hashable]
    groups: Sequence[str]
    values: np.ndarray
    statistic: Statistic = SHARE

    def only(self, chosen: np.ndarray) -> "Cases":
        """The chosen rows, shape (rows,)."""
        return self._at(np.flatnonzero(chosen))

    def _at(self, rows: np.ndarray) -> "Cases":
        keys, groups = [self.keys[row] for row in rows], [self.groups[row] for row in rows]
        return Cases(keys, groups, self.values[rows], self.statistic.only(rows))

    @property
    def value(self) -> float:
        """The number without its interval."""
        return self.statistic.value(self.values)

    @cached_property
    def estimate(self) -> Estimate:
        """The number with its interval."""
        return self.statistic.estimate(self.values, self.groups)

    def difference(self, other: "Cases") -> tuple[PairedDifference, int]:
        """Compare two scorers on the cases that both have.

        Args:
            other: of the same measure and the same data.

        Returns:
            The difference, this one minus the other, and the number of shared cases.
        """
        place = {key: row for row, key in enumerate(other.keys)}
        shared = self._at(np.array([row for row, key in enumerate(self.keys) if key in place], dtype=int))
        others = other.values[np.array([place[key] for key in shared.keys], dtype=int)]
        return shared.statistic.difference(shared.values, others, shared.groups), len(others)


@dataclass(frozen=True)
class Measure:
    """One number of a result.

    Attributes:
        name: what is measured, such as "accuracy with ties".
        subset: of which part of the benchmark, such as "K = 2" or a task.
        source: the cases that it is computed from; or, where no paired comparison is to be made, the estimate itself.
        chance: what random scores reach in expectation, None where it isn't known in closed form.
        coin: what a judge reaches that answers every pair at random; likewise.
        column: of the published table, where the number is to be compared with it.
        details: what else belongs to it, such as the tie threshold.
        lower_is_better: it is an error.
    """

    name: str
    subset: str
    source: Cases | Estimate = field(repr=False)
    chance: float | None = None
    coin: float | None = None
    column: str | None = None
    details: Mapping[str, object] = field(default_factory=dict)
    lower_is_better: bool = False

    @property
    def cases(self) -> Cases | None:
        """What it is computed from; None where no paired comparison is to be made."""
        return self.source if isinstance(self.source, Cases) else None

    @property
    def value(self) -> float:
        """The number without its interval, which takes no resampling."""
        return self.source.value

    @property
    def estimate(self) -> Estimate:
        """The number with its interval: a `Share`, or a correlation or the like."""
        return self.source.estimate if isinstance(self.source, Cases) else self.source

    def to_dict(self) -> dict[str, Any]:
        """As JSON data; what is undefined is null."""
        estimate = self.estimate
        numbers = {name: json_number(getattr(estimate, name)) for name in ("value", "low", "high")}
        optional = {"chance": self.chance, "coin": self.coin, "column": self.column}
        return {
            "name": self.name,
            "subset": self.subset,
            "unit": "share" if isinstance(estimate, Share) else "number",
            **numbers,
            "total": estimate.total,
            **{name: value for name, value in optional.items() if value is not None},
            **({"details": dict(self.details)} if self.details else {}),
            **({"lower_is_better": True} if self.lower_is_better else {}),
        }


def json_number(value: float) -> float | None:
    """As JSON has it: null where it is undefined."""
    return None if np.isnan(value) else float(value)
