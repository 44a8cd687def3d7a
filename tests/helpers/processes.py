"""Processes that tests start: forked from a server that has imported the package with what it needs, which takes a
fresh process 8 seconds."""

import multiprocessing
import os
import runpy
import socket
import sys
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["editreward.training.trainer", "editreward.cli.command", "scipy.stats", "trl"])


def start(target: Callable[..., Any], *arguments: Any, log: Path, **environment: str) -> ForkServerProcess:
    """Call `target` in a process of its own, with this process's environment and what is given of it.

    Args:
        log: gets what the process writes, with the suffixes `.out` and `.err`.
    """
    process = SERVER.Process(target=_call, args=(log, os.environ | environment, target, arguments))
    process.start()
    return process


def _call(log: Path, environment: dict[str, str], target: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    multiprocessing.set_start_method(None, force=True)  # for its own processes; it would be the server's
    for stream, suffix in ((1, ".out"), (2, ".err")):
        with open(f"{log}{suffix}", "wb") as file:
            os.dup2(file.fileno(), stream)
    os.environ.clear()
    os.environ.update(environment)
    target(*arguments)


def free_port() -> int:
    """A port of the loopback address that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run_ranks(
    target: Callable[..., Any], *arguments: Any, folder: Path, ranks: int = 2, timeout: float = 600, **environment: str
) -> list[int | None]:
    """Call `target` in processes that torch.distributed takes for ranks, and wait.

    Args:
        folder: gets `rank0.out`, `rank0.err` and so on.

    Returns:
        The exit codes.
    """
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    processes = [
        start(target, *arguments, log=folder / f"rank{rank}", RANK=str(rank), LOCAL_RANK=str(rank), **environment)
        for rank in range(ranks)
    ]
    for process in processes:
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
    return [process.exitcode for process in processes]


def errors_of(folder: Path) -> str:
    """The ends of what the ranks in a folder wrote to their standard errors."""
    return "\n".join(path.read_text()[-4000:] for path in sorted(folder.glob("rank*.err")))


def as_script(path: Path, *arguments: object) -> None:
    """What `python path arguments` does, as a target of the functions above."""
    sys.argv = [str(path), *map(str, arguments)]
    runpy.run_path(str(path), run_name="__main__")
