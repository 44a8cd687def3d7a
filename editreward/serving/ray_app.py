"""The same application on Ray Serve: several GPUs or machines, replicas that come and go with the load.

`configs/serve/*.yaml` name `build`; `editreward serve --engine ray` calls it with its own options.
"""

import contextlib
import ipaddress
import logging
import os
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve

from editreward.rewards.shaping import Shaping
from editreward.serving.logs import write_logs
from editreward.serving.run import check_host, load_replicas, read_token
from editreward.serving.settings import Limits, Settings
from editreward.validation import read_yaml, validated

NAME = "EditReward"
"""Of the deployment, which config files name."""

DEPLOYMENT = {
    "max_ongoing_requests": 128,
    "max_queued_requests": 1024,
    "backpressure_config": {"status_code": 429, "retry_after_s": 1},
    "graceful_shutdown_timeout_s": 60,
}
"""Settings of the deployment that a config file does not change. Ray's own answer to overload would be 503."""


@dataclass(frozen=True)
class RayArguments:
    """`args` of a config file. The files that it names are read where `build` runs; replicas need none of them.

    Attributes:
        scorer, device, dtype, model_revision, max_batch_tokens: as the options of `editreward serve`.
        shaping: a YAML file.
        token_file: holds the token.
        check: refuse a scorer that scores everything alike.
        max_edits, max_wait, max_queued, max_body_bytes, max_pixels, allow_url: limits of each replica.
    """

    __pydantic_config__ = {"extra": "forbid"}

    scorer: str | None = None
    device: str | None = None
    dtype: str | None = None
    model_revision: str | None = None
    max_batch_tokens: int | None = None
    shaping: str | None = None
    token_file: str | None = None
    check: bool = True
    max_edits: int = 64
    max_wait: float = 0.005
    max_queued: int = 1024
    max_body_bytes: int = Limits.body_bytes
    max_pixels: int = Limits.image_pixels
    allow_url: tuple[str, ...] = ()

    def settings(self) -> Settings:
        """Of each replica."""
        return Settings(
            token=read_token(self.token_file) if self.token_file else None,
            limits=Limits(body_bytes=self.max_body_bytes, image_pixels=self.max_pixels),
            allowed_urls=self.allow_url,
            max_edits=self.max_edits,
            max_wait=self.max_wait,
            max_queued=self.max_queued,
        )


def build(args: dict[str, object]) -> serve.Application:
    """The application, for `import_path` of a config file.

    Args:
        args: see `RayArguments`.
    """
    return application(validated(RayArguments, args, "args"))


def application(arguments: RayArguments, **deployment: Any) -> serve.Application:
    """The application as a deployment.

    Args:
        arguments: what every replica runs.
        deployment: options of Ray Serve's `deployment`, such as `num_replicas`.
    """
    settings = arguments.settings()
    shaping = Shaping.read(arguments.shaping) if arguments.shaping else Shaping()

    def build_asgi_app() -> FastAPI:
        """Called in each replica."""
        from editreward.scorers.registry import load_scorer
        from editreward.serving.app import create_app
        from editreward.serving.memory import keep_memory
        from editreward.serving.service import Service

        write_logs()
        keep_memory()
        names = ("device", "dtype", "max_batch_tokens")
        options = {name: getattr(arguments, name) for name in names} | {"revision": arguments.model_revision}
        # Ray shows each replica its own GPUs only.
        scorers = load_replicas(lambda device: load_scorer(arguments.scorer, **options), 1, arguments.check)
        return create_app(Service(scorers, shaping, settings))

    made: Any = serve.deployment(serve.ingress(build_asgi_app)())
    return made.options(name=NAME, **(DEPLOYMENT | deployment)).bind()


def start(host: str, port: int, num_cpus: int | None = None) -> None:
    """Start Ray on this machine, and Ray Serve's proxy; `ray_environment.prepare` comes before Ray's import.

    There is no dashboard. Ray's own ports are on loopback, but for one of each replica, and ask for the token that Ray
    makes itself. A cluster that runs already (`RAY_ADDRESS`) is taken as it is.

    Raises:
        RuntimeError: it did not, so that Ray's ports would be on the machine's address.
    """
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.WARNING)
    else:
        if not ipaddress.ip_address(ray.util.get_node_ip_address()).is_loopback:
            raise RuntimeError("Ray's ports would not be on loopback: call `prepare` before Ray is imported.")
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            logging_level=logging.WARNING,
        )
    serve.start(http_options={"host": host, "port": port})


def run_until_signal(host: str, port: int, made: serve.Application) -> None:
    """Serve an application until SIGTERM or SIGINT; then what was accepted is finished."""
    ended = threading.Event()
    start(host, port)
    try:
        # Now: Ray set handlers of its own, which abort the process three seconds after SIGTERM.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())
        serve.run(made, name="editreward", route_prefix="/")
        ended.wait()
        with contextlib.suppress(TimeoutError):  # after a minute
            serve.delete("editreward")  # the replicas finish while the proxy still hands on their answers
    finally:
        serve.shutdown()
        ray.shutdown()


@dataclass(frozen=True)
class RayConfig:
    """What is read of a config file of Ray Serve: of `applications` ours, and where to listen."""

    applications: tuple[dict[str, Any], ...] = ()
    http_options: dict[str, Any] = field(default_factory=dict)


def run_config(path: str | Path) -> None:
    """Serve what a config file of Ray Serve says, on this machine.

    Raises:
        ValueError: it is of another form, has not one application of ours, or others could reach it and it asks for no
            token.
    """
    config = read_yaml(path, RayConfig)
    ours = f"{__name__}:{build.__name__}"
    if [one.get("import_path") for one in config.applications] != [ours]:
        raise ValueError(f"{path}: `applications` must be one, with `import_path: {ours}`.")
    (one,) = config.applications
    host, port = config.http_options.get("host", "127.0.0.1"), config.http_options.get("port", 8000)
    arguments = validated(RayArguments, one.get("args") or {}, f"{path}: args")
    check_host(host, arguments.settings().token)
    options: dict[str, object] = {}
    for deployment in validated(list[dict[str, Any]], one.get("deployments") or [], f"{path}: deployments"):
        if deployment.get("name") != NAME:
            raise ValueError(f"{path}: the deployment is called {NAME}, not {deployment.get('name')!r}.")
        options |= {key: value for key, value in deployment.items() if key != "name"}
    run_until_signal(host, port, application(arguments, **options))
