"""What Ray is told, before it is imported: it reads its environment then."""

import os

ALWAYS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # the replicas are workers; Ray would have all else on the machine go first
    # On a machine that is busy Ray would give up while its processes are still starting, or start them for ever.
    "RAY_raylet_start_wait_time_s": "300",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
}

ONE_MACHINE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # as there: one machine, with Ray's ports on loopback
    "RAY_AUTH_MODE": "token",
}
"""Where no cluster is named in `RAY_ADDRESS`."""


def prepare() -> None:
    """Set what the environment does not say otherwise."""
    for name, value in (ALWAYS if os.environ.get("RAY_ADDRESS") else ALWAYS | ONE_MACHINE).items():
        os.environ.setdefault(name, value)
