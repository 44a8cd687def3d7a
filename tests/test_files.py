"""Files that are there whole or not at all, and journals that a killed run's successor goes on with."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from editreward import files

KILLED = """
import os, sys
from pathlib import Path
from editreward import files

def kill():
    os._exit(9)  # no `finally`, no `except`, no buffer is written

target = Path(sys.argv[2])
if sys.argv[1] == "file":
    with files.atomic_file(target) as part:
        part.write_text("half")
        kill()
elif sys.argv[1] == "lines":
    def lines():
        yield "first"
        kill()
    files.write_lines(target, lines())
elif sys.argv[1] == "folder":
    with files.atomic_folder(target) as part:
        (part / "file").write_text("half")
        kill()
else:
    journal = files.Journal(target, {"model": "one"})
    journal.open()
    journal.add({"row": 0})
    journal._file.write(b'{"row": 1')
    journal._file.flush()
    kill()
"""


def run_until_killed(what: str, target: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED, what, str(target)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 9, done.stderr


@pytest.mark.parametrize("what", ["file", "lines"])
def test_a_kill_leaves_the_older_file_and_the_next_run_replaces_what_it_left(tmp_path: Path, what: str) -> None:
    target = tmp_path / "file.txt"
    target.write_text("older")
    run_until_killed(what, target)
    assert target.read_text() == "older"
    assert {path.name for path in tmp_path.iterdir()} == {"file.txt", ".file.txt.part"}
    assert files.write_lines(target, ["new", "lines"]) == 2
    assert target.read_text() == "new\nlines\n"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_a_kill_leaves_no_folder_and_the_next_run_begins_with_an_empty_one(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    run_until_killed("folder", target)
    assert not target.exists()
    target.mkdir()  # an empty one may be there
    with files.atomic_folder(target) as part:
        assert not list(part.iterdir())
        (part / "inner").mkdir()
        (part / "inner" / "other").write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (target / "inner" / "other").read_text() == "whole"


def test_an_error_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "value.json"
    files.write_json(target, {"number": 1, "text": "ä"})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(target, {"number": float("nan")})
    with pytest.raises(KeyError), files.atomic_file(target) as part:
        part.write_text("half")
        raise KeyError
    with pytest.raises(KeyError), files.atomic_folder(tmp_path / "folder") as part:
        (part / "file").write_text("half")
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["value.json"]
    assert json.loads(target.read_text(encoding="utf-8")) == {"number": 1, "text": "ä"}
    assert "ä" in target.read_text(encoding="utf-8")


def test_a_folder_with_files_in_it_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("kept")
    with pytest.raises(ValueError, match="folder is there and not empty"), files.atomic_folder(tmp_path / "folder"):
        pass
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["mine"]
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_only_the_parts_of_the_targets_that_are_named_are_removed(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        files.part_of(tmp_path / folder / "image.png").write_text("half")
        (tmp_path / folder / "image.png").write_text("whole")
    files.part_of(tmp_path / "image.png").write_text("half")
    files.part_of(tmp_path / "one" / "other.json").write_text("half")
    files.part_of(tmp_path / "two" / "folder.png").mkdir()
    files.remove_parts(tmp_path, "*/*.png")
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"one/image.png", "two/image.png", ".image.png.part", "one/.other.json.part"}
    assert not list(tmp_path.glob("two/.folder.png.part"))


def test_a_journal_loses_half_a_line_to_a_kill_and_goes_on_behind_the_last_whole_one(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    run_until_killed("journal", path)
    assert path.read_bytes().endswith(b'{"row": 1')
    assert [json.loads(line) for line in files.whole_lines(path)] == [{"model": "one"}, {"row": 0}]
    journal = files.Journal(path, {"model": "one"})
    assert journal.resume() == 1
    with journal:
        journal.add({"row": 1})
    assert path.read_bytes() == b'{"model": "one"}\n{"row": 0}\n{"row": 1}\n'
    assert files.Journal(path, {"model": "one"}).resume() == 2


def test_a_journal_is_not_gone_on_with_under_another_header(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    assert files.Journal(path, {"model": "one"}).resume() == 0
    assert not path.exists(), "asking leaves nothing"
    with files.Journal(path, {"model": "one", "sizes": (1, 2)}) as journal:
        journal.add({"row": 0})
    assert files.Journal(path, {"model": "one", "sizes": (1, 2)}).resume() == 1
    with pytest.raises(
        ValueError, match=r"journal.jsonl is of an unfinished run.* model 'one' became 'two', sizes \[1, 2\]"
    ):
        files.Journal(path, {"model": "two", "sizes": (1, 3)}).resume()
    path.write_bytes(b'{"model": "o')  # killed at the header: nothing belongs to it
    with files.Journal(path, {"model": "two"}):
        pass
    assert path.read_bytes() == b'{"model": "two"}\n'


def test_settings_that_changed_are_named_with_both_values() -> None:
    before = {"same": [1, 2], "other": 1, "gone": True}
    now = {"same": (1, 2), "other": 2, "new": "x"}
    assert files.changed_settings(before, now) == {"other": (1, 2), "gone": (True, None), "new": (None, "x")}


def test_a_name_that_is_no_unicode_costs_no_file(tmp_path):
    files.write_json(tmp_path / "a.json", {"name": "b\udce9.png"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"name": "b\udce9.png"}
    files.write_lines(tmp_path / "lines.txt", ["b\udce9.png"])
    assert (tmp_path / "lines.txt").read_text(encoding="utf-8") == "b\\udce9.png\n"
