"""Run a server on this machine."""

import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn

from editreward.groups import Scorer
from editreward.rewards.self_check import self_check
from editreward.rewards.shaping import Shaping
from editreward.serving.app import create_app
from editreward.serving.logs import log, write_logs
from editreward.serving.service import Service
from editreward.serving.settings import Settings


def check_host(host: str, token: str | None) -> None:
    """Be sure that a server which others can reach asks for a token.

    Raises:
        ValueError: it does not.
    """
    try:
        is_near = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_near = host == "localhost"
    if not is_near and token is None:
        raise ValueError(
            f"`--host {host}` can be reached from other machines: give a `--token-file`, or stay on 127.0.0.1."
        )


def read_token(path: str | Path) -> str:
    """The token in a file, without white space around it.

    Raises:
        ValueError: it is shorter than 16 characters, or not printable ASCII.
    """
    token = Path(path).read_text(encoding="utf-8").strip()
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError(f"{path} must hold a token of 16 or more printable ASCII characters without spaces.")
    return token


def load_replicas(load: Callable[[str | None], Scorer], count: int, check: bool = True) -> list[Scorer]:
    """Load a scorer several times, on several GPUs where there are some.

    Args:
        load: makes the scorer on a device; None leaves the choice to it.
        count: how many.
        check: refuse one that scores everything alike.
    """
    if count < 1:
        raise ValueError(f"`--replicas` is {count}; it must be 1 or more.")
    scorers = [load(device) for device in devices(count)]
    if check:
        self_check(scorers[0])
    return scorers


def devices(count: int) -> list[str | None]:
    """A device for each replica: the GPUs in turn; None where there is none or one."""
    import torch

    gpus = torch.cuda.device_count()
    return [f"cuda:{index % gpus}" if gpus > 1 else None for index in range(count)]


def serve(
    scorers: Sequence[Scorer],
    shaping: Shaping,
    settings: Settings,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    log_level: str = "info",
) -> None:
    """Serve until SIGTERM or SIGINT; then what was accepted is finished.

    Args:
        scorers: replicas of one scorer.
        shaping, settings: see `Service`.
        host, port: where to listen; port 0 takes a free one, which the log names.
        log_level: least level of what is logged.

    Raises:
        ValueError: others could reach the server, and it asks for no token.
    """
    check_host(host, settings.token)
    write_logs(log_level)
    service = Service(scorers, shaping, settings)
    app = create_app(service)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        lifespan="on",
    )
    # uvicorn raises a signal again when it is done, which would end the process with that signal.
    signal.signal(signal.SIGTERM, lambda *_: None)
    bound = config.bind_socket()
    url = f"http://{host}:{bound.getsockname()[1]}"
    _Server(config, scorer=scorers[0].name, version=service.version, url=url, replicas=len(scorers)).run([bound])
    log("stopped")


class _Server(uvicorn.Server):
    """Logs when it listens."""

    def __init__(self, config: uvicorn.Config, **about: str | int) -> None:
        super().__init__(config)
        self._about = about

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        log("serving", logging.INFO, None, **self._about)
