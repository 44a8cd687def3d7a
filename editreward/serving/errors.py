"""What a server answers in place of scores."""

import math
from collections.abc import Sequence
from typing import TypedDict

from starlette.responses import JSONResponse


class Fault(TypedDict):
    """What is wrong with a field of a request, such as "groups.0.edited.1"."""

    field: str
    reason: str


class RequestError(Exception):
    """A request that is not answered with scores.

    Args:
        status: the HTTP status.
        message: one line.
        faults: the fields that are wrong.
        retry_after: seconds after which to try again.
    """

    def __init__(
        self, status: int, message: str, faults: Sequence[Fault] = (), retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.faults, self.retry_after = status, message, list(faults), retry_after

    def response(self) -> JSONResponse:
        """The error as JSON: `error`, one line as Flow-Factory wants it, and `fields`."""
        headers = {} if self.retry_after is None else {"Retry-After": str(max(math.ceil(self.retry_after), 1))}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse({"error": self.message, "fields": self.faults}, self.status, headers)


def refused(faults: Sequence[Fault], status: int = 422) -> RequestError:
    """An error of fields, which its message names."""
    first = faults[0]
    more = f" ({len(faults) - 1} more)" if len(faults) > 1 else ""
    return RequestError(status, f"{first['field']}: {first['reason']}{more}", faults)
