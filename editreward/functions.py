"""Functions that a user names on the command line."""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any


def load_function(name: str, option: str) -> Callable[..., Any]:
    """The function, or other callable, that `FILE.py:FUNCTION` or `MODULE:FUNCTION` names; its code is run.

    Args:
        name: what the user wrote.
        option: where, for errors.

    Raises:
        ValueError: there is no such file, module or function.
    """
    place, _, function = name.rpartition(":")
    if not place:
        raise ValueError(f"{option} takes FILE.py:FUNCTION or MODULE:FUNCTION, not {name!r}.")
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(place).stem, place) if Path(place).is_file() else None
        if spec is None or spec.loader is None:
            raise ValueError(f"{option}: there is no file {place}.")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            raise ValueError(f"{option}: {error}.") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise ValueError(f"{option}: {place} has no function {function}.")
    named: Callable[..., Any] = found
    return named
