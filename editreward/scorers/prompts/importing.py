"""Texts of published prompts, taken from the user's own copy by parsing it. Nothing of it is run."""

import ast
import json
import os
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field
from pydantic.dataclasses import dataclass

from editreward.files import write_text
from editreward.scorers.prompts.messages import slots_of
from editreward.scorers.prompts.prompt_set import PromptSet, read_content
from editreward.validation import KNOWN_ENTRIES_ONLY, Text, validated


@dataclass(frozen=True, config=KNOWN_ENTRIES_ONLY)
class TextPlace:
    """Where the text of a prompt is, and how it is made from what is there.

    Args:
        constants: string constants of a .py, joined by line breaks.
        ten: what stands in place of each "10" in the constants of `ten_in`.
        ten_in: names of constants.
        numbers: markers that a number takes the place of.
        markers: markers that become slots; each must be there.
    """

    constants: Annotated[tuple[Text, ...], Field(min_length=1)]
    ten: int | None = None
    ten_in: tuple[Text, ...] = ()
    numbers: dict[str, int] = Field(default_factory=dict)
    markers: dict[str, str] = Field(default_factory=dict)


def import_prompts(source: str | os.PathLike[str], structure: str, output: str | os.PathLike[str]) -> PromptSet:
    """Fill a structure with the texts of a file, and write the prompt set.

    Args:
        source: a .py with string constants, or a .json with a text for each prompt by name, or with these under
            "templates".
        structure: name of the structure, such as "editscore".
        output: the YAML file to write.

    Raises:
        ValueError: there is no such structure, or the file has not the texts, or a text lacks a marker.
        FileNotFoundError: there is no such file.
    """
    _, content = read_content(structure)
    if "texts" not in content:
        raise ValueError(f"The prompt set {structure!r} has its texts already: use it as it is.")
    places = validated(dict[str, TextPlace], content.pop("texts"), f"texts of {structure}")
    path = Path(source)
    texts = _from_json(path, places) if path.suffix == ".json" else _from_python(path, places)
    for prompt in content["prompts"]:
        text = _with_slots(texts[prompt["name"]], places[prompt["name"]], f"{path}, {prompt['name']}")
        for message in prompt["messages"]:
            message["content"] = message["content"].replace("{text}", text)
    made = validated(PromptSet, content, str(path))
    write_text(output, yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=119))
    return made


def _with_slots(text: str, place: TextPlace, where: str) -> str:
    if found := slots_of(text):
        raise ValueError(f"{where}: the text holds {{{found[0]}}}, which would be taken for a slot.")
    for marker, number in place.numbers.items():
        text = text.replace(marker, str(number))
    for marker, slot in place.markers.items():
        if marker not in text:
            raise ValueError(f"{where}: the text lacks the marker {marker}: is it the right file?")
        text = text.replace(marker, slot)
    return text


def _from_json(path: Path, places: dict[str, TextPlace]) -> dict[str, str]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    found = content.get("templates", content) if isinstance(content, dict) else {}
    missing = [name for name in places if not isinstance(found, dict) or not isinstance(found.get(name), str)]
    if missing:
        raise ValueError(f"{path} has no text {missing[0]!r}: it needs one for each of {', '.join(places)}.")
    return {name: found[name] for name in places}


def _from_python(path: Path, places: dict[str, TextPlace]) -> dict[str, str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path} is neither .json nor Python: {error}.") from error
    constants = dict(constant for node in tree.body for constant in _constants(node))
    texts = {}
    for name, place in places.items():
        if missing := [constant for constant in place.constants if constant not in constants]:
            raise ValueError(f"{path} has no string constant {missing[0]}, a part of {name}.")
        parts = [
            constants[constant].replace("10", str(place.ten))
            if place.ten is not None and constant in place.ten_in
            else constants[constant]
            for constant in place.constants
        ]
        texts[name] = "\n".join(parts)
    return texts


def _constants(node: ast.stmt) -> list[tuple[str, str]]:
    """Names that a statement gives a string to, as it stands."""
    if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(node.value, ast.Constant):
        return []
    value = node.value.value
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [(one.id, value) for one in targets if isinstance(one, ast.Name) and isinstance(value, str)]


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)
