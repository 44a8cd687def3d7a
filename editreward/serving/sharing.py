"""One scorer for many threads: groups that wait while a batch runs are scored together in the next one."""

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from editreward.scorers.reward_model import BestEdit, SkippedGroup


class GroupInput(NamedTuple):
    """Arguments of `EditRewardScorer.best_of` for one group."""

    source: Any
    edited: Any
    instruction: str


@dataclass(eq=False)
class _Request:
    group: GroupInput
    result: BestEdit | SkippedGroup | None = None


class SharedScorer:
    """Scores groups for several threads at once.

    There is no thread of its own: whoever finds the model free scores its own groups together with those that wait.

    Args:
        best_of: `EditRewardScorer.best_of`, or what stands in for it.
        max_groups: groups of one call to it, unless one caller alone brings more.
    """

    def __init__(self, best_of: Callable[..., list[BestEdit | SkippedGroup]], max_groups: int = 16) -> None:
        self._best_of, self._max_groups = best_of, max_groups
        self._waiting: list[_Request] = []
        self._lock = threading.Lock()  # of the list
        self._model = threading.Lock()

    def best_of(self, groups: Sequence[GroupInput], timeout: float | None = None) -> list[BestEdit | SkippedGroup]:
        """Score groups, in the order given; a group that cannot be scored costs the others nothing.

        Args:
            groups: the groups.
            timeout: seconds to wait for the model while others use it.

        Returns:
            For each group its `BestEdit`, or a `SkippedGroup` with its position in `groups`.

        Raises:
            TimeoutError: the model was not free in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        own = [_Request(group) for group in groups]
        with self._lock:
            self._waiting += own
        try:
            while any(request.result is None for request in own):
                left = -1 if deadline is None else max(deadline - time.monotonic(), 0)
                if not self._model.acquire(timeout=left):
                    raise TimeoutError(f"The model was busy with other requests for {timeout:g} seconds; try again.")
                try:
                    self._score(own)
                finally:
                    self._model.release()
        finally:
            with self._lock:
                self._waiting = [request for request in self._waiting if request not in own]
        return [_at(index, request.result) for index, request in enumerate(own)]

    def _score(self, own: list[_Request]) -> None:
        """Score what is left of the caller's own groups, and of the others' as many as fit.

        An error is the caller's alone: the others' groups stay in the list for their owners.
        """
        with self._lock:
            mine = [request for request in own if request.result is None]
            others = [request for request in self._waiting if request not in own]
        if not mine:
            return
        batch = mine + others[: max(self._max_groups - len(mine), 0)]
        sources, edited, instructions = zip(*(request.group for request in batch), strict=True)
        results = self._best_of(list(sources), list(edited), list(instructions), on_error="skip", progress=False)
        with self._lock:
            for request, result in zip(batch, results, strict=True):
                request.result = result
            self._waiting = [request for request in self._waiting if request.result is None]


def _at(index: int, result: BestEdit | SkippedGroup | None) -> BestEdit | SkippedGroup:
    """A result with its position among the caller's groups in place of that in the batch."""
    assert result is not None
    if isinstance(result, BestEdit):
        return result
    return replace(result, index=index, reason=re.sub(r"^groups\[\d+\]\.", "", result.reason))
