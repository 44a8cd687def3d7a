"""What calls cost: a budget that stops cleanly, totals, and a log."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from editreward.files import Journal
from editreward.scorers.judges.options import JudgeOptions

MILLION = 1_000_000


@dataclass(frozen=True)
class Usage:
    """Tokens of a call, as the endpoint counts them."""

    read: int
    written: int


class Ledger:
    """Counts calls, tokens and money. Threads may share it.

    Args:
        options: prices, budget and log.

    Attributes:
        calls: begun, repeated ones included.
        cached: answers taken from the cache.
        read, written: tokens.
        cost: in the currency of the prices; of calls without an answer, what was expected of them.
        faults: what could not be written.

    Raises:
        ValueError: there is no folder for the log.
    """

    def __init__(self, options: JudgeOptions) -> None:
        self.options = options
        self.calls = self.cached = self.read = self.written = 0
        self.cost = 0.0
        self.faults: set[str] = set()
        if options.log is not None and not Path(options.log).parent.is_dir():
            raise ValueError(f"There is no folder for the log {options.log}: make it, or choose another name.")
        self._under_way = 0
        self._largest = 0.0
        self._has_usage = True
        self._lock = threading.Lock()

    def begin(self, expected: Usage) -> str:
        """Reserve a call.

        Args:
            expected: tokens that it may use. All calls under way are taken to cost as much, or what the most expensive
                one has cost.

        Returns:
            Why there may be none; empty if there may.
        """
        with self._lock:
            self._largest = max(self._largest, self._price(expected))
            if self.options.max_calls is not None and self.calls >= self.options.max_calls:
                return f"the budget of {self.options.max_calls} calls is spent (max_calls)"
            if self.options.max_cost is not None:
                if not self._has_usage:
                    return "the endpoint does not say how many tokens it used: use max_calls instead of max_cost"
                if self.cost + (self._under_way + 1) * self._largest > self.options.max_cost:
                    return f"the budget of {self.options.max_cost:g} is spent (max_cost): {self.cost:.4g} so far"
            self.calls += 1
            self._under_way += 1
        return ""

    def end(
        self,
        outcome: str,
        seconds: float,
        usage: Usage | None = None,
        replied: bool = False,
        expected: Usage | None = None,
    ) -> None:
        """Settle a call that was begun.

        Args:
            outcome: what became of it, for the log.
            seconds: that it took.
            usage: its tokens, where the endpoint says them.
            replied: whether the endpoint answered it, so that there should be a usage.
            expected: what counts towards the cost where there is no usage; None: such a call costs nothing.
        """
        used = usage or expected
        cost = self._price(used) if used else 0.0
        with self._lock:
            self._under_way -= 1
            if usage:
                self.read, self.written = self.read + usage.read, self.written + usage.written
                self._largest = max(self._largest, cost)
            elif replied:
                self._has_usage = False
            self.cost += cost
            self._log(outcome, seconds, usage, cost if used else None)

    def took_from_cache(self) -> None:
        """Count an answer that cost nothing."""
        with self._lock:
            self.cached += 1

    def __str__(self) -> str:
        told = f"{self.calls} calls, {self.cached} answers from the cache"
        told += f", {self.read} tokens read, {self.written} written"
        return told + (f", cost {self.cost:.4g}" if self.options.prices else "")

    def _price(self, usage: Usage) -> float:
        read, written = self.options.prices or (0.0, 0.0)
        return (usage.read * read + usage.written * written) / MILLION

    def _log(self, outcome: str, seconds: float, usage: Usage | None, cost: float | None) -> None:
        if self.options.log is None:
            return
        record = {
            "time": round(time.time(), 3),
            "model": self.options.model,
            "outcome": outcome,
            "seconds": round(seconds, 3),
            "tokens_read": usage.read if usage else None,
            "tokens_written": usage.written if usage else None,
            "cost": cost if self.options.prices else None,
        }
        try:
            with Journal(Path(self.options.log), durable=False) as journal:
                journal.add(record)
        except OSError as error:
            self.faults.add(f"the log {self.options.log} could not be written ({error.strerror})")
