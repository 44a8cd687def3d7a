"""How much may be stored: uploads beyond it are refused before they are read."""

import threading

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BLOCK = 4096
"""What a file takes at least, in bytes."""


class Quota:
    """What is stored, as it was last measured, and what has come since.

    Args:
        limit: bytes that may be stored.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self._stored, self._lock = limit, 0, threading.Lock()

    def take(self, size: int) -> bool:
        """Count some bytes more, unless they are too many; returns whether they are not."""
        with self._lock:
            if self._stored + size > self.limit:
                return False
            self._stored += size
            return True

    def measured(self, stored: int) -> None:
        """So many bytes are stored."""
        with self._lock:
            self._stored = stored


class UploadQuota:
    """Refuses uploads where the quota is used up.

    Args:
        app: what takes uploads.
        quota: the quota.
    """

    def __init__(self, app: ASGIApp, quota: Quota) -> None:
        self.app, self.quota = app, quota

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer an upload, or hand it on."""
        if scope["type"] != "http" or not scope["path"].rstrip("/").endswith("/upload"):
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "")
        counted = max(BLOCK, int(declared) if declared.isascii() and declared.isdigit() else 0)
        if not self.quota.take(counted):
            detail = "The Space keeps no more files at the moment. Try again later: they are deleted after some time."
            await JSONResponse({"detail": detail}, 507)(scope, receive, send)
            return
        received = 0

        async def counting() -> Message:
            nonlocal received, counted
            message = await receive()
            received += len(message.get("body", b""))
            if received > counted:  # sent without its length
                if not self.quota.take(received - counted):
                    return {"type": "http.disconnect"}
                counted = received
            return message

        await self.app(scope, counting, send)
