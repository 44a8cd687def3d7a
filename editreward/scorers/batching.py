"""One scorer for many callers: groups that wait at the same time share a call, within a latency bound.

Callers get futures, so threads and event loops can wait alike. (`serving.sharing.SharedScorer` has no thread of its
own: the Space needs that, whose scorer runs in the thread of whoever asks.)
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeAlias

from editreward.groups import EditGroup, GroupScores, Unscored

Answer: TypeAlias = GroupScores | Unscored
MOST_WAITS = 10
"""See `Batcher`."""

Score: TypeAlias = Callable[[Sequence[EditGroup]], Sequence[Answer]]


class QueueFull(RuntimeError):
    """There is no room for more groups.

    Attributes:
        retry_after: seconds until there probably is.
    """

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"The scorer's queue is full; try again in {retry_after:.0f} s.")
        self.retry_after = retry_after


class DeadlineExceeded(TimeoutError):
    """A group's deadline passed before it was scored."""


class Closed(RuntimeError):
    """The batcher takes no more groups."""


@dataclass
class BatcherEvents:
    """What a batcher tells whoever watches it; the methods do nothing here.

    Called from its threads.
    """

    def scored(self, groups: int, edits: int, seconds: float, waited: float) -> None:
        """A call is done: its groups, edits and seconds, and how long its oldest group had waited."""

    def dropped(self, groups: int) -> None:
        """Groups were dropped before they cost a call: their deadline passed, or nobody waits any more."""


@dataclass(eq=False)
class _Item:
    group: EditGroup
    future: "Future[Answer]"
    deadline: float | None
    arrived: float = field(default_factory=time.monotonic)

    @property
    def edits(self) -> int:
        return max(len(self.group.edited), 1)


class Batcher:
    """Gathers groups of many callers into calls of a scorer.

    A call begins as soon as a scorer is free and `max_edits` edits wait, or no other group has come for `max_wait`
    seconds, or the oldest has waited `MOST_WAITS` times that. While a call runs the next one fills up; when it ends,
    all its callers ask again within a moment, and without that pause the first of them would get a call of its own.

    Args:
        scorers: one thread each, which calls it; several replicas of one scorer share the queue.
        max_edits: edits of one call, unless one group alone has more.
        max_wait: seconds without another group after which a free scorer begins.
        max_queued: edits that may wait; beyond, groups are refused.
        events: is told what happens.
    """

    def __init__(
        self,
        scorers: Sequence[Score],
        *,
        max_edits: int = 64,
        max_wait: float = 0.005,
        max_queued: int = 1024,
        events: BatcherEvents | None = None,
    ) -> None:
        if not scorers or max_edits < 1 or max_queued < 1 or max_wait < 0:
            raise ValueError("A batcher needs a scorer, `max_edits` and `max_queued` of 1 or more, `max_wait` >= 0.")
        self.max_edits, self.max_wait, self.max_queued = max_edits, max_wait, max_queued
        self._events = events or BatcherEvents()
        self._queue: deque[_Item] = deque()
        self._queued = 0  # edits
        self._rate = 0.0  # edits per second of the last calls
        self._closed = False
        self._changed = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, args=(scorer,), name=f"scorer-{index}", daemon=True)
            for index, scorer in enumerate(scorers)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def queued(self) -> int:
        """Edits that wait."""
        return self._queued

    @property
    def is_alive(self) -> bool:
        """Whether it takes groups and all its threads run."""
        return not self._closed and all(thread.is_alive() for thread in self._threads)

    def submit(self, groups: Sequence[EditGroup], deadline: float | None = None) -> "list[Future[Answer]]":
        """Queue groups, all or none.

        Args:
            groups: the groups.
            deadline: on the clock of `time.monotonic`; groups that no call has begun with by then are dropped.

        Returns:
            For each group the future of its answer. A cancelled one is dropped, too.

        Raises:
            QueueFull: there is no room. A request that is larger than the whole queue is taken when nothing waits.
            Closed: `close` was called.
        """
        items = [_Item(group, Future(), deadline) for group in groups]
        edits = sum(item.edits for item in items)
        with self._changed:
            if self._closed:
                raise Closed("The server is shutting down.")
            if self._queued and self._queued + edits > self.max_queued:
                raise QueueFull(self.seconds_of_queue())
            self._queue += items
            self._queued += edits
            self._changed.notify_all()
        return [item.future for item in items]

    def seconds_of_queue(self) -> float:
        """How long what waits will take, at the speed of the last calls; from 1 to 30."""
        return min(max(self._queued / self._rate if self._rate else 1.0, 1.0), 30.0)

    def close(self, timeout: float | None = None) -> None:
        """Take no more groups, score what waits, and end the threads.

        Args:
            timeout: seconds to wait for that; what is left then fails with `Closed`.
        """
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if deadline is None else max(deadline - time.monotonic(), 0))
        with self._changed:
            left, self._queue, self._queued = list(self._queue), deque(), 0
        for item in left:
            if item.future.set_running_or_notify_cancel():
                item.future.set_exception(Closed("The server shut down before it could score this."))

    def _work(self, scorer: Score) -> None:
        while batch := self._next_batch():
            started = time.monotonic()
            for item, answer in zip(batch, _score_each(scorer, [item.group for item in batch]), strict=True):
                if isinstance(answer, Exception):
                    item.future.set_exception(answer)
                else:
                    item.future.set_result(answer)
            seconds = time.monotonic() - started
            edits = sum(item.edits for item in batch)
            speed = len(self._threads) * edits / max(seconds, 1e-6)
            self._rate = speed if not self._rate else 0.8 * self._rate + 0.2 * speed
            self._events.scored(len(batch), edits, seconds, started - min(item.arrived for item in batch))

    def _next_batch(self) -> list[_Item]:
        """Wait for groups and take them; empty when closed and done."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return []
                while (left := self._waits_until() - time.monotonic()) > 0:
                    if self._closed or self._queued >= self.max_edits:
                        break
                    self._changed.wait(left)
                    if not self._queue:  # another replica took them
                        break
                taken = list(self._take())
            alive = [item for item in taken if self._is_wanted(item)]
            if len(alive) < len(taken):
                self._events.dropped(len(taken) - len(alive))
            if alive:
                return alive

    def _waits_until(self) -> float:
        first, last = self._queue[0].arrived, self._queue[-1].arrived
        return min(last + self.max_wait, first + MOST_WAITS * self.max_wait)

    def _take(self) -> Iterator[_Item]:
        edits = 0
        while self._queue and (not edits or edits + self._queue[0].edits <= self.max_edits):
            item = self._queue.popleft()
            edits += item.edits
            self._queued -= item.edits
            yield item

    def _is_wanted(self, item: _Item) -> bool:
        if not item.future.set_running_or_notify_cancel():
            return False
        if item.deadline is not None and time.monotonic() >= item.deadline:
            item.future.set_exception(DeadlineExceeded("The request's time was over before it could be scored."))
            return False
        return True


def _score_each(scorer: Score, groups: Sequence[EditGroup]) -> Sequence[Answer | Exception]:
    """Answers to groups; where the call fails, each group by itself, so that one costs the others nothing."""
    error: Exception
    try:
        answers = scorer(groups)
        if len(answers) == len(groups):
            return answers
        error = ValueError(f"The scorer gave {len(answers)} answers to {len(groups)} groups.")
    except Exception as raised:
        error = raised
    if len(groups) == 1:
        return [error]
    return [_score_each(scorer, [group])[0] for group in groups]
