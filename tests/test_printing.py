"""No text of strangers controls the terminal."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from editreward.cli import command as cli
from editreward.printing import printable, safe_streams

EVIL = "\x1b[2J\x1b]0;owned\x07\nWrote scores.jsonl: 5000 groups.\r\x9b31m\u202etxt.exe"


def test_control_characters_are_shown_as_json_writes_them_and_nothing_else_changes():
    assert printable("Größe 変 🧑‍🎨 naïve") == "Größe 変 🧑‍🎨 naïve"
    shown = printable(EVIL)
    assert json.loads(f'"{shown}"') == EVIL
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in shown)


def test_streams_let_lines_and_progress_bars_through_and_no_escape_sequence():
    out, err = io.StringIO(), io.StringIO()
    with safe_streams(out, err):
        print("line\n\ttab", EVIL.replace("\n", ""))
        import sys

        print("\r 10%\x1b[A\x1b[1mbold\x1b[0m", "\x1b[2J", file=sys.stderr)
    assert out.getvalue().startswith("line\n\ttab \\u001b[2J") and "\x1b" not in out.getvalue()
    assert err.getvalue() == "\r 10%\x1b[A\x1b[1mbold\x1b[0m \\u001b[2J\n"


@pytest.mark.parametrize("scorer", ["ssim", "editreward-tiny"])
def test_ids_of_a_dataset_reach_the_terminal_in_one_harmless_line(tmp_path, capsys, scorer):
    bad = {"bytes": b"nope", "path": None}
    row = {"group_id": EVIL, "instruction": "x", "source_images": [bad], "candidates": [{"image": bad}]}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    options = ["--scorer", scorer] if scorer == "ssim" else ["--device", "cpu"]
    output = str(tmp_path / "scores.jsonl")
    assert cli.main(["score", "--dataset", str(tmp_path / "rows.parquet"), "--output", output, *options]) == 1
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and "\x07" not in out + err
    assert not any(line.startswith("Wrote scores.jsonl") for line in out.splitlines())


def test_errors_show_what_strangers_wrote_harmlessly(tmp_path, capsys):
    name = str(tmp_path / "\x1b]0;owned\x07.parquet")
    assert cli.main(["data", "check", name]) == 2
    out, err = capsys.readouterr()
    assert "\x1b" not in err and "\\u001b]0;owned\\u0007" in err
