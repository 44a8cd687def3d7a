"""What all metrics ask of their arguments."""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike


def finite(name: str, values: ArrayLike, length: int | None = None) -> np.ndarray:
    """One-dimensional float64 values, all of them numbers.

    Args:
        name: what the values are, for the message.
        values: shape (rows,).
        length: how many are needed, if that is known.

    Raises:
        ValueError: a value is NaN or infinite (its row is named), or the shape is wrong.
    """
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or (length is not None and len(array) != length):
        wanted = "(rows,)" if length is None else f"({length},)"
        raise ValueError(f"{name} must have the shape {wanted}, not {array.shape}")
    wrong = np.flatnonzero(~np.isfinite(array))
    if len(wrong):
        more = f", and {len(wrong) - 1} more rows" if len(wrong) > 1 else ""
        raise ValueError(f"{name}: row {wrong[0]} is {array[wrong[0]]}, which is not a finite number{more}")
    return array


def relations(name: str, values: ArrayLike, length: int | None = None) -> np.ndarray:
    """Verdicts on pairs: 1 where the first is better, -1 where the second is, 0 for a tie.

    Raises:
        ValueError: another value, whose row is named, or a wrong shape.
    """
    array = finite(name, values, length)
    wrong = np.flatnonzero(~np.isin(array, (-1, 0, 1)))
    if len(wrong):
        raise ValueError(f"{name}: row {wrong[0]} is {array[wrong[0]]:g}; 1, -1 or 0 for a tie is needed")
    return array


def group_index(groups: Sequence[Hashable] | np.ndarray | None, length: int) -> tuple[np.ndarray, list[Hashable]]:
    """Number of each row's group, shape (rows,), and the groups in the order of their first row.

    Args:
        groups: each row's group, anything hashable; `None`: each row is a group of its own.
        length: number of rows.

    Raises:
        ValueError: there is not one group for each row.
    """
    if groups is None:
        return np.arange(length), list(range(length))
    if len(groups) != length:
        raise ValueError(f"{len(groups)} groups are given for {length} rows")
    if isinstance(groups, np.ndarray) and groups.ndim == 1 and groups.dtype != object:  # faster, same result
        names, first, place = np.unique(groups, return_index=True, return_inverse=True)
        order = np.argsort(first)
        return np.argsort(order)[place], names[order].tolist()
    numbers: dict[Hashable, int] = {}
    index = [numbers.setdefault(group, len(numbers)) for group in groups]
    return np.array(index, dtype=int), list(numbers)
