"""`editreward prompts`."""

import json

import pytest

from editreward.cli import main
from editreward.scorers.prompts import load_prompt_set
from editreward.scorers.prompts.prompt_set import list_prompt_sets


def test_all_prompt_sets_are_listed_with_what_they_are(capsys):
    assert main(["prompts", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list_prompt_sets() and all(len(line) < 120 for line in lines)


@pytest.mark.parametrize("name", ["editreward", "editreward-scores", "editreward-pairs"])
def test_a_set_is_shown_as_it_is_sent(name, capsys):
    assert main(["prompts", "show", name, "--instruction", "add {a} <hat>"]) == 0
    shown = capsys.readouterr().out
    for prompt in load_prompt_set(name).prompts:
        assert prompt.messages[0].content.rpartition("\n")[2] in shown and f"== {prompt.name}" in shown
    assert "add {a} <hat>" in shown and "{source}" in shown


def test_texts_are_imported_once_and_then_usable(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.json").write_text(json.dumps({"SC": "rate <instruction>", "PQ": "rate the look"}))
    command = ["prompts", "import", "--from", "texts.json", "--as", "viescore", "--output", "own.yaml"]
    assert main(command) == 0
    assert capsys.readouterr().out == "own.yaml: viescore, 2 prompts. Use it with --prompts own.yaml.\n"
    assert load_prompt_set("own.yaml")["SC"].render("go")[0].text == "rate go"
    assert main(command) == 2
    assert "own.yaml is there already" in capsys.readouterr().err


def test_errors_are_one_line_with_the_fix(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.json").write_text("{}")
    for command, message in (
        (["prompts", "show", "editscore"], "editreward prompts import --from FILE --as editscore"),
        (["prompts", "show", "nothing"], "There is no prompt set 'nothing': name one of editreward"),
        (["prompts", "import", "--from", "no.json", "--as", "editscore", "--output", "o"], "no.json"),
        (
            ["prompts", "import", "--from", "texts.json", "--as", "editreward", "--output", "o"],
            "has its texts already",
        ),
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
