"""A server within the tests' process, on a port of its own."""

import base64
import io
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from PIL import Image

from editreward.groups import Scorer
from editreward.rewards import Shaping
from editreward.serving.app import create_app
from editreward.serving.service import Service
from editreward.serving.settings import Settings

HTTP = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0))
"""For requests: `httpx.post` reads the certificates of the machine each time."""


def text_of(image: Image.Image, format: str = "PNG") -> str:
    """An image file in base64."""
    file = io.BytesIO()
    image.save(file, format)
    return base64.b64encode(file.getvalue()).decode()


def body_of(
    edited: Sequence[Image.Image], source: Image.Image | None = None, instruction: str = "x"
) -> dict[str, Any]:
    """A request of one group."""
    sources = [text_of(source or Image.new("RGB", (16, 12), (1, 0, 0)))]
    return {"groups": [{"sources": sources, "instruction": instruction, "edited": list(map(text_of, edited))}]}


@contextmanager
def serving(
    scorers: Scorer | Sequence[Scorer], shaping: Shaping | None = None, settings: Settings | None = None
) -> Iterator[str]:
    """Serve; gives the address."""
    replicas = scorers if isinstance(scorers, list) else [scorers]
    app = create_app(Service(replicas, shaping, settings))
    config = uvicorn.Config(app, port=0, log_level="warning", lifespan="on", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    socket = config.bind_socket()
    thread = threading.Thread(target=server.run, args=([socket],))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.005)
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
