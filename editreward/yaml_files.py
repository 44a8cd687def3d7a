"""YAML that may be a bomb: a few lines of aliases of aliases that stand for billions of entries."""

from typing import Any

import yaml

MOST_ENTRIES = 100_000
"""Entries of a file once its aliases are written out."""


class YamlBombError(yaml.YAMLError):
    """A file stands for more than anybody writes."""


def load_yaml(text: str) -> Any:
    """The content of a YAML file.

    Raises:
        yaml.YAMLError: it is none, holds itself, or stands for more than `MOST_ENTRIES` entries.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)  # aliases are still references here
    if root is not None:
        _entries(root, {})
    return yaml.safe_load(text)


def _entries(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Entries that a node stands for. `known` holds those of nodes that were seen, None while they are counted."""
    if id(node) in known:
        count = known[id(node)]
        if count is None:
            raise YamlBombError("an entry holds itself")
        return count
    known[id(node)] = None
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.SequenceNode):
        parts = list(node.value)
    elif isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    count = 1 + sum(_entries(part, known) for part in parts)
    if count > MOST_ENTRIES:
        raise YamlBombError(f"its aliases stand for more than {MOST_ENTRIES:,} entries")
    known[id(node)] = count
    return count
