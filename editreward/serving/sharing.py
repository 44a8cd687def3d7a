"""One scorer for many threads: groups that wait while a batch runs are scored together in the next one."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from editreward.groups import EditGroup, GroupScores, Unscored

Result = TypeVar("Result")


@dataclass(eq=False)
class _Request:
    group: EditGroup
    result: GroupScores | Unscored | None = None


class SharedScorer:
    """Scores groups for several threads at once.

    There is no thread of its own: whoever finds the scorer free scores its own groups together with those that wait.

    Args:
        scorer: a `Scorer`, or what stands in for its call.
        max_groups: groups of one call to it, unless one caller alone brings more.
    """

    def __init__(
        self, scorer: Callable[[Sequence[EditGroup]], Sequence[GroupScores | Unscored]], max_groups: int = 16
    ) -> None:
        self._scorer, self._max_groups = scorer, max_groups
        self._waiting: list[_Request] = []
        self._lock = threading.Lock()  # of the list
        self._free = threading.Lock()  # of the scorer

    def __call__(self, groups: Sequence[EditGroup], timeout: float | None = None) -> list[GroupScores | Unscored]:
        """Score groups, in the order given; a group that cannot be scored costs the others nothing.

        Args:
            groups: the groups.
            timeout: seconds to wait for the scorer while others use it.

        Returns:
            For each group its `GroupScores`, or an `Unscored`.

        Raises:
            TimeoutError: the scorer was not free in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        own = [_Request(group) for group in groups]
        with self._lock:
            self._waiting += own
        try:
            while any(request.result is None for request in own):
                left = -1 if deadline is None else max(deadline - time.monotonic(), 0)
                with self._held(left, timeout):
                    self._score(own)
        finally:
            with self._lock:
                self._waiting = [request for request in self._waiting if request not in own]
        return [request.result for request in own if request.result is not None]

    def alone(self, function: Callable[[], Result], timeout: float | None = None) -> Result:
        """What a function gives that needs the scorer for itself.

        Raises:
            TimeoutError: the scorer was not free in so many seconds.
        """
        with self._held(-1 if timeout is None else timeout, timeout):
            return function()

    @contextmanager
    def _held(self, left: float, timeout: float | None) -> Iterator[None]:
        if not self._free.acquire(timeout=left):
            raise TimeoutError(f"The model was busy with other requests for {timeout:g} seconds; try again.")
        try:
            yield
        finally:
            self._free.release()

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
        results = self._scorer([request.group for request in batch])
        with self._lock:
            for request, result in zip(batch, results, strict=True):
                request.result = result
            self._waiting = [request for request in self._waiting if request.result is None]
