"""A number with its interval."""

import math
from dataclasses import dataclass

NAN = float("nan")


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        value: the number; NaN where it is undefined.
        low, high: the interval; NaN where there is none. One that resamples groups needs two groups or more, and half
            of the resamples or more in which the number is defined.
        total: number of cases.
    """

    value: float
    low: float
    high: float
    total: int

    @property
    def excludes_zero(self) -> bool:
        """The whole interval is on one side of 0."""
        return self.low > 0 or self.high < 0

    def text(self, digits: int = 3, unit: str = "", scale: float = 1) -> str:
        """The value, and the interval where there is one: "0.815 (0.700 to 0.902)"; "–" for no value.

        Args:
            digits: after the point.
            unit: of the value, after scaling.
            scale: what to multiply the numbers by.
        """
        if math.isnan(self.value):
            return "–"
        value, low, high = (f"{scale * number:.{digits}f}" for number in (self.value, self.low, self.high))
        return f"{value}{unit}" + ("" if math.isnan(self.low) else f" ({low} to {high})")

    def __str__(self) -> str:
        text, total = self.text(), f"n = {self.total:,})"
        return f"{text[:-1]}, {total}" if text.endswith(")") else f"{text} ({total}"


@dataclass(frozen=True)
class Share(Estimate):
    """A share of successes, 0 to 1, with its interval; its text is in percent."""

    def text(self, digits: int = 1, unit: str = " %", scale: float = 100) -> str:
        """As that of `Estimate`: "72.1 % (70.0 to 74.3)"."""
        return super().text(digits, unit, scale)
