"""Write docs/api.md from the docstrings of the public names.

python research/api_docs.py
"""

import editreward.scripts

import argparse
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
MODULES = (
    "editreward",
    "editreward.groups",
    "editreward.data.schema",
    "editreward.data.storage",
    "editreward.training",
    "editreward.resources",
    "configuration_editreward",
    "images_editreward",
    "modeling_editreward",
    "processing_editreward",
)
HEAD = """# API

Made by `python research/api_docs.py` from the docstrings of the names that programs are meant to use. How long they
stay: [CONTRIBUTING.md](../CONTRIBUTING.md#deprecation). Commands are in [command_line.md](command_line.md).

"""
SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields):$")
ENTRY = re.compile(r"(\*{0,2}[\w., *`]+?)(?: \([^)]*\))?: (.*)")


def public_names(module: ModuleType) -> list[str]:
    """Names of `__all__`, else classes and functions that the module defines, in its order."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    ]


def signature(name: str, value: Any) -> str:
    """Name and parameters without annotations, which the text explains."""
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return name
    given = [
        each.replace(annotation=inspect.Parameter.empty) for each in parameters if each.name not in ("self", "cls")
    ]
    text = f"{name}{inspect.Signature(given)}"
    return text if len(text) <= 110 and "<" not in text else f"{name}({', '.join(each.name for each in given)})"


def as_markdown(docstring: str) -> Iterator[str]:
    """Lines of a docstring in Google's style, its sections as lists."""
    lines = inspect.cleandoc(docstring).splitlines()
    section = ""
    for line in lines:
        if found := SECTION.match(line):
            section = found[1]
            yield from (f"**{section}**", "")
        elif section and line.startswith("    ") and not line.startswith("     "):
            entry = ENTRY.fullmatch(line.strip())
            yield f"- `{entry[1].strip('`')}`: {entry[2]}" if entry else f"- {line.strip()}"
        elif section and line.strip():
            yield f"  {line.strip()}"
        elif line.startswith("    "):
            yield line.strip()
        else:
            yield line


def described(name: str, value: Any, level: int) -> Iterator[str]:
    """A heading and the docstring; for classes their public methods, too."""
    docstring = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    yield from (f"{'#' * level} `{signature(name, value)}`", "")
    yield from as_markdown(docstring or "")
    yield ""
    if inspect.isclass(value):
        for method, member in vars(value).items():
            function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if isinstance(member, property):
                function = member.fget
            if not method.startswith("_") and inspect.isfunction(function) and function.__doc__:
                shown = f"{name}.{method}"
                if isinstance(member, property):
                    yield from (f"{'#' * (level + 1)} `{shown}`", "", *as_markdown(function.__doc__), "")
                else:
                    yield from described(shown, function, level + 1)


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        lines += [f"## {module_name}", "", *as_markdown(module.__doc__ or ""), ""]
        for name in public_names(module):
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                lines += described(name, value, 3)
    text = "\n".join(line.rstrip() for line in lines)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    PAGE.write_text(page(), encoding="utf-8")
    print(f"Wrote {PAGE}.")


if __name__ == "__main__":
    main()
