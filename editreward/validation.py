"""Files that people write, checked by pydantic, which is no part of the core install: gradio and FastAPI bring it.

Errors are one line that names the file, each entry that is wrong, what is wrong with it and what it is.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import yaml
from pydantic import ConfigDict, StringConstraints, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from editreward.yaml_files import load_yaml

T = TypeVar("T")

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
"""A text that is not blank."""

KNOWN_ENTRIES_ONLY = ConfigDict(extra="forbid", allow_inf_nan=False)
"""How entries are checked: a name that is not known is an error, for it may be a misspelled one."""

LONGEST_VALUE = 60
"""Characters of a wrong value that a message repeats."""

WORDS = {
    "missing": "is missing",
    "extra_forbidden": "is unknown",
    "unexpected_keyword_argument": "is unknown",
    "string_type": "must be a text",
    "string_too_short": "must be a text that is not empty",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must have entries",
    "dataclass_type": "must have entries",
    "model_type": "must have entries",
    "too_short": "must have at least {min_length} entry",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "less_than": "must be less than {lt}",
    "finite_number": "must be a number",
    "literal_error": "must be {expected}",
}
"""What to say in place of pydantic's words, by kind of error."""


def validated(kind: type[T], content: object, where: str) -> T:
    """What a file says, as a class with annotations that pydantic checks.

    Args:
        kind: the class.
        content: what was read.
        where: file, and place in it, for errors.

    Raises:
        ValueError: the content does not fit; everything that is wrong is named.
    """
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        faults = error.errors()
        # A list that lacks what was wrong in it is not wrong itself.
        faults = [fault for fault in faults if not any(_is_inside(other, fault) for other in faults)]
        raise ValueError(f"{where}: {'; '.join(map(_fault, faults))}.") from error


def read_yaml(path: str | os.PathLike[str], kind: type[T]) -> T:
    """Read and check a YAML file. Entries without a value count as left out.

    Raises:
        ValueError: the file is not YAML, or its content does not fit.
        FileNotFoundError: there is no such file.
    """
    try:
        content = load_yaml(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if isinstance(content, dict):
        content = {name: value for name, value in content.items() if value is not None}
    return validated(kind, content, str(path))


def read_json_lines(path: str | os.PathLike[str], kind: type[T]) -> Iterator[tuple[str, T]]:
    """Read and check a file with a JSON object in each line; lines may be empty.

    Yields:
        Where an object is, for errors, and the object.

    Raises:
        ValueError: a line is not JSON in UTF-8, or does not fit.
        FileNotFoundError: there is no such file.
    """
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                content = json.loads(line.decode("utf-8-sig"))  # as editors of other systems write it
            except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
                raise ValueError(f"{where}: not JSON ({error}).") from error
            yield where, validated(kind, content, where)


def _is_inside(inner: ErrorDetails, outer: ErrorDetails) -> bool:
    depth = len(outer["loc"])
    return len(inner["loc"]) > depth and inner["loc"][:depth] == outer["loc"]


def _fault(error: ErrorDetails) -> str:
    """What is wrong with an entry, such as "dimensions, entry 2, name must be a text, not 3"."""
    place = ", ".join(f"entry {part + 1}" if isinstance(part, int) else str(part) for part in error["loc"])
    own = error.get("ctx", {}).get("error")
    if isinstance(own, ValueError):  # of a validator of ours, whose message has all that is needed
        return f"{place}: {own}" if place else str(own)
    words = WORDS.get(error["type"])
    what = words.format(**error.get("ctx", {})) if words else f"is wrong: {error['msg']}"
    if what not in ("is missing", "is unknown"):
        what += f", not {_short(error['input'])}"
    return f"{place} {what}" if place else f"it {what}"


def _short(value: object) -> str:
    if isinstance(value, Mapping | Sequence) and not isinstance(value, str) and len(value) > 5:
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"
