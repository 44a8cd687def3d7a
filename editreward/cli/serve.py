"""`editreward serve`: any scorer behind HTTP."""

import argparse
import os
from typing import TYPE_CHECKING

from editreward.cli.commands import Commands
from editreward.cli.paths import reads
from editreward.cli.scorer_options import add_scorer_options, scorer_of

if TYPE_CHECKING:
    from editreward.serving.settings import Settings


NOT_OF_RAY = ("scorer_seed", "log_level", "prompts", "passes", "temperature", "max_calls", "max_cost", "prices")
"""Options that `--engine ray` has not."""

NO_OPTIONS = ("command", "command_parser", "run", "check", "shows_messages", "debug", "engine", "config")
"""Of the arguments, what goes with a `--config`."""


def add_serve(commands: Commands) -> None:
    """Declare `editreward serve`."""
    parser = commands.add_parser(
        "serve",
        help="serve scores and rewards over HTTP",
        description="Serve scores and rewards over HTTP, to clients of our own and to frameworks for reinforcement "
        "learning. Requests of many clients share passes through the model.",
        epilog="Example: editreward serve --scorer org/EditReward --host 0.0.0.0 --token-file token.txt",
    )
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="(default: %(default)s; 0: a free one)")
    parser.add_argument("--token-file", metavar="FILE", help="holds what callers must show; needed beyond 127.0.0.1")
    parser.add_argument(
        "--replicas", type=int, default=1, metavar="N", help="copies of the scorer; the GPUs take turns (default: 1)"
    )
    parser.add_argument(
        "--engine", choices=("uvicorn", "ray"), default="uvicorn", help="ray: Ray Serve (default: %(default)s)"
    )
    parser.add_argument("--config", metavar="FILE", help="of Ray Serve, such as configs/serve/one_machine.yaml")
    parser.add_argument("--shaping", metavar="FILE", help="YAML: what rewards are made of the scores")
    parser.add_argument("--no-check", action="store_true", help="serve even a scorer that scores everything alike")
    parser.add_argument("--write-client", metavar="FILE", help="write the client, one Python file, and end")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    _add_limits(parser)
    add_scorer_options(parser)
    reads(parser, token_file="file", shaping="file")
    parser.set_defaults(run=run_serve, check=_check, shows_messages=True)


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument("--max-edits", type=int, default=64, metavar="N", help="edits of a pass (default: %(default)s)")
    group.add_argument(
        "--max-wait",
        type=float,
        default=0.005,
        metavar="S",
        help="seconds without another edit after which a pass begins; the first waits ten times that at most "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--max-queued", type=int, default=1024, metavar="N", help="waiting edits (default: %(default)s)"
    )
    group.add_argument("--max-body", type=int, default=64, metavar="MIB", help="of a request (default: %(default)s)")
    group.add_argument("--max-pixels", type=int, default=2**24, metavar="N", help="of an image (default: %(default)s)")
    group.add_argument(
        "--allow-url", action="append", default=[], metavar="PREFIX", help="fetch images from addresses that begin so"
    )


def _check(args: argparse.Namespace) -> None:
    """Raise a `ValueError` for options that would be ignored."""
    if args.engine != "ray":
        if args.config:
            raise ValueError("`--config` is of Ray Serve: add `--engine ray`.")
        return
    named = [name for name in vars(args) if name not in NO_OPTIONS] if args.config else NOT_OF_RAY
    given = [name for name in named if getattr(args, name) != args.command_parser.get_default(name)]
    if given:
        option = "--" + given[0].removeprefix("scorer_").replace("_", "-")
        told = "with `--config`: write it into that file" if args.config else "with `--engine ray`"
        raise ValueError(f"`{option}` has no effect {told}.")


def run_serve(args: argparse.Namespace) -> None:
    """Serve until the process is told to end."""
    if args.write_client:
        write_client(args.write_client)
        return
    from editreward.rewards.shaping import Shaping
    from editreward.serving.memory import keep_memory
    from editreward.serving.run import check_host, load_replicas, read_token, serve

    settings = settings_of(args, read_token(args.token_file) if args.token_file else None)
    check_host(args.host, settings.token)
    shaping = Shaping.read(args.shaping) if args.shaping else Shaping()
    if args.engine == "ray":
        _serve_on_ray(args)
        return
    keep_memory()
    scorers = load_replicas(lambda device: scorer_of(args, device), args.replicas, check=not args.no_check)
    serve(scorers, shaping, settings, host=args.host, port=args.port, log_level=args.log_level)


def _serve_on_ray(args: argparse.Namespace) -> None:
    from editreward.serving.ray_environment import prepare

    prepare()
    from editreward.serving.ray_app import RayArguments, application, run_config, run_until_signal

    if args.config:
        run_config(args.config)
        return
    arguments = RayArguments(
        scorer=args.scorer,
        device=args.device,
        dtype=args.dtype,
        model_revision=args.model_revision,
        max_batch_tokens=args.max_batch_tokens,
        shaping=args.shaping,
        token_file=args.token_file,
        check=not args.no_check,
        max_edits=args.max_edits,
        max_wait=args.max_wait,
        max_queued=args.max_queued,
        max_body_bytes=args.max_body * 2**20,
        max_pixels=args.max_pixels,
        allow_url=tuple(args.allow_url),
    )
    run_until_signal(args.host, args.port, application(arguments, num_replicas=args.replicas))


def settings_of(args: argparse.Namespace, token: str | None) -> "Settings":
    """The `Settings` that the options ask for."""
    from editreward.serving.settings import Limits, Settings
    from editreward.serving.urls import check_prefix

    return Settings(
        token=token,
        limits=Limits(body_bytes=args.max_body * 2**20, image_pixels=args.max_pixels),
        allowed_urls=tuple(map(check_prefix, args.allow_url)),
        max_edits=args.max_edits,
        max_wait=args.max_wait,
        max_queued=args.max_queued,
    )


def write_client(path: str | os.PathLike[str]) -> None:
    """Write the client: one file, which imports nothing of the package.

    Raises:
        FileExistsError: there is such a file.
    """
    import importlib.util
    from pathlib import Path

    spec = importlib.util.find_spec("editreward.client")
    assert spec is not None and spec.origin is not None
    with open(path, "x", encoding="utf-8") as file:
        file.write(Path(spec.origin).read_text(encoding="utf-8"))
    print(f"Wrote {path}.")
