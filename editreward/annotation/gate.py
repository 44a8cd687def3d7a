"""What stands before the annotation app: who may pass, what may be asked for, and how much of it.

Everything but the sign-in form asks for a session. Of Gradio's own addresses only those are let through that its page
needs: none of those that read files, take uploads, or fetch from elsewhere.
"""

import asyncio
import ipaddress
import json
import math
import re
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from urllib.parse import parse_qs

from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "editreward-annotate"
SIGN_IN_PATH = "/sign-in"

OWN_PATHS = re.compile(r"/|/sign-out|/(image|tuple)/[0-9]{1,18}/[a-z]+/[0-9]{1,9}")

GRADIO_PATHS = re.compile(
    r"/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/(assets|static|svelte)/.*"
    r"|/gradio_api/(info|app_id|startup-events|theme\.css|login_check|cancel|reset)/?"
    r"|/gradio_api/queue/(join|data)|/gradio_api/heartbeat/\w+"
)
"""What Gradio's page asks for, assets of Gradio itself included."""

HEADERS = {
    b"content-security-policy": b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    b"frame-ancestors 'none'",
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"same-origin",
}
"""The page loads nothing from elsewhere and is shown in no other page."""

SIGN_IN_BYTES = 4096
"""The longest sign-in form: nobody is known yet who sends it."""

REQUEST_BYTES = 2**20
"""The longest request of who is signed in: scores of a page, and a comment."""

BODY_SECONDS = 30.0
"""How long a request may take to arrive."""

MOST_TRIES = 20
TRIES_SECONDS = 600.0
MOST_ADDRESSES = 10_000

MOST_STREAMS = 1000
"""Open pages of an annotator that are told apart from those of others."""


class Gate:
    """Lets requests through that belong to a session, ask for a known address, and are short; notes whose they are.

    Args:
        app: what is protected.
        annotator_of: the annotator's name for a session key, None for a wrong one.
    """

    def __init__(self, app: ASGIApp, annotator_of: Callable[[str], str | None]) -> None:
        self.app, self.annotator_of = app, annotator_of
        self._streams = Streams()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS.items()]
            await send(message)

        response = await self._refusal(scope)
        if response is None:
            limit = SIGN_IN_BYTES if scope["path"] == SIGN_IN_PATH else REQUEST_BYTES
            body = await read_body(receive, limit)
            if isinstance(body, Response):
                response = body
            elif not self._owns_stream(scope, body):
                response = JSONResponse({"detail": "This page is somebody else's. Reload it."}, status_code=403)
            else:
                receive = with_body(body, receive)
        await (response or self.app)(scope, receive, send_with_headers)

    async def _refusal(self, scope: Scope) -> Response | None:
        path = scope["path"]
        if path == SIGN_IN_PATH and scope["type"] == "http":
            return None
        key = HTTPConnection(scope).cookies.get(COOKIE, "")
        annotator = await run_in_threadpool(self.annotator_of, key) if key else None
        if scope["type"] != "http":
            return Response(status_code=403)
        if annotator is None:
            if path == "/" and scope["method"] == "GET":
                return RedirectResponse(SIGN_IN_PATH, status_code=303)
            return JSONResponse({"detail": "Sign in first."}, status_code=401)
        if not (OWN_PATHS.fullmatch(path) or GRADIO_PATHS.fullmatch(path)) or ".." in path:
            return JSONResponse({"detail": "There is nothing here."}, status_code=404)
        scope.setdefault("state", {})["annotator"] = annotator
        return None

    def _owns_stream(self, scope: Scope, body: bytes) -> bool:
        """Whether the page of Gradio's that a request names is the annotator's own."""
        if scope["path"] == SIGN_IN_PATH:
            return True
        named = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [])
        if scope["path"].startswith("/gradio_api/heartbeat/"):
            named.append(scope["path"].rpartition("/")[2])
        if body and scope["path"].startswith("/gradio_api/"):
            try:
                content = json.loads(body)
            except (ValueError, RecursionError):
                content = None  # Gradio refuses it
            if isinstance(content, dict) and isinstance(content.get("session_hash"), str):
                named.append(content["session_hash"])
        annotator = scope["state"]["annotator"]
        return all(self._streams.belongs(session, annotator) for session in named)


async def read_body(receive: Receive, limit: int) -> bytes | Response:
    """All of a request's body, or what to answer: it is longer than `limit` bytes, slow, or broken off."""
    content = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return Response(status_code=400)
                content += message.get("body", b"")
                if len(content) > limit:
                    return JSONResponse({"detail": f"More than {limit} bytes."}, status_code=413)
                if not message.get("more_body"):
                    return bytes(content)
    except TimeoutError:
        return JSONResponse({"detail": "The request did not arrive."}, status_code=408)


def with_body(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read once more, and then what comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


class Streams:
    """Whose each open page is. A page belongs to the annotator who first uses its name, which is random."""

    def __init__(self) -> None:
        self._pages: dict[str, OrderedDict[str, None]] = {}

    def belongs(self, page: str, annotator: str) -> bool:
        """Whether a page is an annotator's; one that nobody has used becomes theirs."""
        if any(page in pages for name, pages in self._pages.items() if name != annotator):
            return False
        mine = self._pages.setdefault(annotator, OrderedDict())
        mine[page] = None
        mine.move_to_end(page)
        if len(mine) > MOST_STREAMS:
            mine.popitem(last=False)
        return True


class Tries:
    """Tries to sign in that went wrong, by address. Tokens cannot be guessed; this keeps who tries from being a load.

    Names are not counted: whoever knows one could keep its owner out.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def begin(self, address: str) -> int:
        """Note a try. Returns 0, or how many seconds to wait as there were too many, in which case none is noted."""
        now, network = self._clock(), network_of(address)
        with self._lock:
            times = self._times.setdefault(network, deque())
            self._times.move_to_end(network)
            while times and times[0] <= now - TRIES_SECONDS:
                times.popleft()
            if len(times) >= MOST_TRIES:
                return math.ceil(times[0] + TRIES_SECONDS - now)
            times.append(now)
            if len(self._times) > MOST_ADDRESSES:
                self._times.popitem(last=False)
            return 0

    def succeeded(self, address: str) -> None:
        """A try went well: it does not count; those before it do."""
        with self._lock:
            if times := self._times.get(network_of(address)):
                times.pop()


def network_of(address: str) -> str:
    """What one person has of the Internet: an IPv4 address, or 64 bits of IPv6."""
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(known) if known.version == 4 else str(ipaddress.ip_network(f"{known}/64", strict=False))
