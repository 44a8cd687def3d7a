"""What every request passes before it is looked at: the token, the size of its body, and the room for it."""

import asyncio
import hmac
import threading
import time
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from editreward.serving.errors import RequestError, refused
from editreward.serving.logs import log
from editreward.serving.metrics import Metrics
from editreward.serving.settings import Settings

OPEN_PATHS = ("/health", "/docs", "/openapi.json")
"""What is shown without a token."""


class Budget:
    """Bytes that all requests together may hold."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self._limit, self._metrics, self.held = limit, metrics, 0
        self._lock = threading.Lock()  # images are decoded in threads

    def take(self, count: int, own: int = 0) -> None:
        """Hold more bytes.

        Args:
            count: how many.
            own: what the request holds already.

        Raises:
            RequestError: there is no room, 429; or there never will be, 413.
        """
        with self._lock:
            if own + count > self._limit:
                reason = f"with its decoded images it takes more than {self._limit:,} bytes; send fewer at a time"
                raise refused([{"field": "body", "reason": reason}], 413)
            if self.held + count > self._limit:
                raise RequestError(429, "The server holds as many requests as it can; try again.", retry_after=1)
            self.held += count
            self._metrics.held.set(self.held)

    def give(self, count: int) -> None:
        """Hold fewer bytes."""
        with self._lock:
            self.held -= count
            self._metrics.held.set(self.held)


class Holding:
    """What one request holds of a budget. Threads that still work on a request that is answered get nothing more.

    Args:
        budget: of all requests.
        body: bytes of the request that are held already, by the gate.
    """

    def __init__(self, budget: Budget, body: int = 0) -> None:
        self._budget, self._body, self._count, self._is_over = budget, body, 0, False
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Hold more bytes.

        Raises:
            RequestError: there is no room, or the request is answered.
        """
        with self._lock:
            if self._is_over:
                raise RequestError(499, "The request is answered.")
            self._budget.take(count, self._body + self._count)
            self._count += count

    def end(self) -> None:
        """Give all back, and hold no more."""
        with self._lock:
            self._is_over = True
            self._budget.give(self._count)
            self._count = 0


class Gate:
    """ASGI middleware: checks the token, reads the body within the limits, counts and logs.

    A body is read before the application is called, so that slow clients hold nothing but what they sent.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics, budget: Budget) -> None:
        self._app, self._settings, self._metrics, self._budget = app, settings, metrics, budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["editreward"] = noted = {"started": time.monotonic(), "status": 500}
        held = 0

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                noted["status"] = message["status"]
            await send(message)

        self._metrics.in_flight.inc()
        try:
            self._check_token(Request(scope))
            with self._metrics.stage("read"):
                body = await self._body(Request(scope), receive)
            held = len(body)
            await self._app(scope, _replay(body, receive), sending)
        except RequestError as error:
            await error.response()(scope, receive, sending)
        finally:
            self._budget.give(held)
            self._metrics.in_flight.dec()
            self._note(scope, noted)

    def _check_token(self, request: Request) -> None:
        """Compare in constant time.

        Raises:
            RequestError: there is another token or none; 401.
        """
        token = self._settings.token
        if token is None or request.scope["path"] in OPEN_PATHS:
            return
        given = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {token}".encode()):
            reason = "the server's token is missing or wrong: `Bearer TOKEN`"
            raise RequestError(401, f"Authorization: {reason}.", [{"field": "Authorization", "reason": reason}])

    async def _body(self, request: Request, receive: Receive) -> bytes:
        """The body; its bytes are held.

        Raises:
            RequestError: it is too long, too slow, or there is no room.
        """
        limits = self._settings.limits
        stated = request.headers.get("content-length", "")
        if stated.isdecimal() and int(stated) > limits.body_bytes:
            raise _too_long(limits.body_bytes)
        parts: list[bytes] = []
        length = 0
        try:
            async with asyncio.timeout(limits.body_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise RequestError(499, "The client is gone.")
                    part = message.get("body", b"")
                    if length + len(part) > limits.body_bytes:
                        raise _too_long(limits.body_bytes)
                    self._budget.take(len(part), length)
                    length += len(part)
                    parts.append(part)
                    more = message.get("more_body", False)
        except (RequestError, TimeoutError) as error:
            self._budget.give(length)
            if isinstance(error, RequestError):
                raise
            raise RequestError(408, f"The body did not arrive within {limits.body_seconds:g} s.") from error
        except asyncio.CancelledError:
            self._budget.give(length)
            raise
        return b"".join(parts)

    def _note(self, scope: Scope, noted: dict[str, Any]) -> None:
        route = scope.get("route")
        endpoint = getattr(route, "path", "other")  # not the path as sent: anybody can make up new ones
        self._metrics.requests.labels(endpoint, str(noted["status"])).inc()
        if noted["status"] >= 400:
            self._metrics.failures.labels(f"status {noted['status']}").inc()
        client = scope.get("client")
        fields = {name: value for name, value in noted.items() if name != "started"}
        seconds = round(time.monotonic() - noted["started"], 4)
        log("request", endpoint=endpoint, client=client[0] if client else None, seconds=seconds, **fields)


def _too_long(limit: int) -> RequestError:
    advice = "send fewer edits at a time, or start the server with a larger --max-body"
    message = f"body: it has more than {limit:,} bytes; {advice}."
    return RequestError(413, message, [{"field": "body", "reason": f"more than {limit:,} bytes"}])


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body at once, and then what else comes, such as the news that the client is gone."""
    given = False

    async def replayed() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replayed
