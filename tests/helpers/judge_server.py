"""An OpenAI-compatible server in this process that answers as a test tells it, and misbehaves as it is told."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = {
    "IF": '{"reasoning": "done", "success": 4, "preservation": 3}',
    "VQ": '{"reasoning": "clean", "plausibility": 2, "cleanness": 4}',
}
"""Answers to the two prompts of the set `editreward`: overall (3 + 2) / 2."""

Behaviour = Callable[["Handler", dict[str, Any]], None]


def prompt_of(request: dict[str, Any]) -> str:
    """Name of the prompt of the set `editreward` that a request is."""
    return "IF" if "success" in text_of(request) else "VQ"


def text_of(request: dict[str, Any]) -> str:
    """All text of a request's messages."""
    return "".join(p.get("text", "") for m in request["messages"] for p in m["content"] if isinstance(p, dict))


def completion(request: dict[str, Any], content: Any, **changes: Any) -> dict[str, Any]:
    """A reply; `changes` are of the whole, `finish_reason` and `refusal` of its choice."""
    message = {"role": "assistant", "content": content, "refusal": changes.pop("refusal", None)}
    choice = {"index": 0, "message": message, "finish_reason": changes.pop("finish_reason", "stop")}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    about = {"id": "x", "object": "chat.completion", "created": 1, "model": request["model"]}
    return {**about, "choices": [choice], "usage": usage, **changes}


def good(handler: "Handler", request: dict[str, Any]) -> None:
    handler.send(200, completion(request, GOOD[prompt_of(request)]))


def says(content: Any, **changes: Any) -> Behaviour:
    """Replies with a text, and what else is changed."""
    return lambda handler, request: handler.send(200, completion(request, content, **changes))


def status(http: int, message: str = "no", headers: dict[str, str] | None = None, **error: Any) -> Behaviour:
    """Replies with an HTTP error."""
    return lambda handler, request: handler.send(http, {"error": {"message": message, **error}}, headers)


def body(content: bytes, kind: str = "application/json", headers: dict[str, str] | None = None) -> Behaviour:
    """Replies with bytes."""
    return lambda handler, request: handler.send_bytes(200, content, kind, headers)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "JudgeServer"

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.requests.append(request)
            self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
            behaviour = self.server.plan.pop(0) if self.server.plan else self.server.usual
            self.server.under_way += 1
            self.server.most = max(self.server.most, self.server.under_way)
        try:
            behaviour(self, request)
        except (BrokenPipeError, ConnectionResetError):  # the caller has gone
            self.close_connection = True
        finally:
            with self.server.lock:
                self.server.under_way -= 1

    def send(self, code: int, content: Any, headers: dict[str, str] | None = None) -> None:
        self.send_bytes(code, json.dumps(content).encode(), "application/json", headers)

    def send_bytes(self, code: int, content: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        pass


class JudgeServer(ThreadingHTTPServer):
    """`plan`: behaviours for the next requests, `usual`: for all others; `requests` and `headers` so far."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: list[Behaviour] = []
        self.usual: Behaviour = good
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.lock, self.under_way, self.most = threading.Lock(), 0, 0
        self.stopped = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@contextmanager
def judge_server() -> Iterator[JudgeServer]:
    server = JudgeServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopped.set()
        server.shutdown()
        server.server_close()
