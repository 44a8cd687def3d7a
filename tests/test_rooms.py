"""The rooms of docs/architecture.md: which may import from which; and no import goes round."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "editreward").rglob("*.py")
}
HUB_FILES = {f"{part}_editreward" for part in ("configuration", "images", "modeling", "pipeline", "processing")}


def imports(path: Path) -> Iterator[str]:
    """Modules that a file imports, inside of functions too; not those for type checkers alone."""
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        todo += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield whole if whole in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


GRAPH = {name: {one for one in imports(path) if one in MODULES and one != name} for name, path in MODULES.items()}


def room(module: str) -> str | None:
    """The room that a module lies in; None for the small modules beside the rooms."""
    parts = module.split(".")
    is_room = len(parts) > 1 and (ROOT / "editreward" / parts[1]).is_dir()
    return parts[1] if is_room else None


def allowed() -> dict[str, set[str]]:
    """The arrows as docs/architecture.md has them."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.split("| room | what it holds | imports from |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)/` \|.*\| ([^|]*) \|$", table, re.M)
    found = {name: set(re.findall(r"\w+", arrows)) - {"none"} for name, arrows in rows}
    rooms = set(found)
    return {name: rooms if arrows == {"all", "rooms"} else arrows for name, arrows in found.items()}


def test_rooms_import_only_from_those_that_the_docs_say():
    arrows = allowed()
    assert set(arrows) == {one for one in map(room, MODULES) if one}
    wrong = [
        f"{module} imports {target}"
        for module, targets in GRAPH.items()
        for target in targets
        if (here := room(module)) and (there := room(target)) and there != here and there not in arrows[here]
    ]
    assert wrong == []


def test_the_docs_name_no_arrow_that_is_not_there():
    arrows = allowed()
    used = {(room(module), room(target)) for module, targets in GRAPH.items() for target in targets}
    assert [(a, b) for a, targets in arrows.items() if a != "cli" for b in sorted(targets) if (a, b) not in used] == []


def test_no_import_goes_round():
    try:
        tuple(TopologicalSorter(GRAPH).static_order())
    except CycleError as error:
        raise AssertionError(f"these import each other: {error.args[1]}") from error


def test_hub_files_import_nothing_of_the_package():
    for name in HUB_FILES:
        assert not any(one.split(".")[0] == "editreward" for one in imports(ROOT / f"{name}.py")), name


def test_groups_and_the_registry_import_no_torch():
    light = [n for n in MODULES if n.startswith("editreward.groups.") or n == "editreward.scorers.registry"]
    heavy = {"torch", "transformers", "datasets"}
    assert [n for n in light for one in imports(MODULES[n]) if one.split(".")[0] in heavy] == []
