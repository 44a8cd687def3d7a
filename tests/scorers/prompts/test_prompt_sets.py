"""Prompt sets: what is asked, how strictly an answer is read, and how numbers become scores."""

import json
import math
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from editreward.groups.protocol import LEVELS, read_protocol
from editreward.scorers.prompts import (
    ImagePart,
    MarkupPart,
    ParsedAnswer,
    ParseFailure,
    Prompt,
    PromptSet,
    TextPart,
    list_prompt_sets,
    load_prompt_set,
)
from editreward.scorers.prompts.importing import import_prompts
from editreward.scorers.prompts.prompt_set import FOLDER, read_content
from editreward.scorers.prompts.published import guesses
from editreward.validation import validated
from tests.helpers.editscore import golden, number

OURS, SCORES, WORDS = (load_prompt_set(f"editreward{name}") for name in ("", "-scores", "-words"))
TEXTS = {"SC": 'Rate {"a": [x, y]} of 10 <instruction> & <instruction>\n', "PQ": "Rate the look, 0-<score_range>.\n"}


@pytest.fixture(scope="module")
def editscore(tmp_path_factory):
    """A prompt set with the structure of EditScore and short texts."""
    tmp_path = tmp_path_factory.mktemp("editscore")
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    return import_prompts(tmp_path / "texts.json", "editscore", tmp_path / "prompts.yaml")


def test_our_sets_have_the_dimensions_and_the_levels_of_the_annotation_rubric():
    rubric = read_protocol()
    for ours in (OURS, SCORES):
        assert list(ours.dimensions) == rubric.names
        assert ours.scale == (min(LEVELS), max(LEVELS))
        for prompt in ours.prompts:
            assert {(score.low, score.high) for score in prompt.sub_scores} == {(1, 4)}


def test_the_quality_prompt_sees_the_edit_alone():
    for ours in (OURS, SCORES):
        assert ours["IF"].slots == ("source", "edited", "instruction")
        assert ours["VQ"].slots == ("edited",)


@settings(deadline=None, max_examples=50)
@given(st.text(st.sampled_from("ab{}<>|\n\u201c ") | st.characters(codec="utf-8")))
def test_an_instruction_is_text_whatever_it_holds(instruction):
    for text in (instruction, f"{instruction}{{edited}}<|im_end|>{{instruction}}{{source}}"):
        before, after = OURS["IF"].messages[0].content.removeprefix("{source}{edited}").split("{instruction}")
        (message,) = OURS["IF"].render(text, sources=2)
        assert message.parts == (
            ImagePart("source", 0),
            ImagePart("source", 1),
            ImagePart("edited"),
            TextPart(f"{before}{text}{after}"),
        )


def test_braces_that_are_no_slot_stay_as_they_are(editscore):
    assert editscore["SC"].render("do {x}")[0].text == 'Rate {"a": [x, y]} of 10 do {x} & do {x}\n'


def test_a_fixed_markup_counts_images_and_keeps_texts_apart(editscore):
    pieces = editscore.markup_for("qwen2_5_vl").pieces(editscore["SC"].render("<|im_end|>", sources=2))
    assert [piece for piece in pieces if isinstance(piece, TextPart)] == [
        TextPart('Rate {"a": [x, y]} of 10 <|im_end|> & <|im_end|>\n')
    ]
    assert [piece.text[:6] for piece in pieces if isinstance(piece, MarkupPart)][1:-1] == [
        "<img1>",
        "<img2>",
        "<img3>",
    ]
    assert editscore.markup_for("qwen3_vl") is None


@pytest.mark.parametrize("case", [row for row in golden()["prompts"] if row["model"] == "qwen25"][:12])
def test_the_imported_texts_and_markup_are_those_of_the_published_prompts(case, tmp_path):
    """The golden data name the parts of the published text; their token ids are checked where there is a model."""
    name = "editscore" if case["entry"] == "evaluate" else "editscore-batch"
    (tmp_path / "texts.json").write_text(json.dumps({"templates": golden()["templates"]}), encoding="utf-8")
    ours = import_prompts(tmp_path / "texts.json", name, tmp_path / "prompts.yaml")
    chat, template = golden()["chat"]["qwen25"], golden()["templates"][case["prompt"]]
    images = "".join(chat["image_i"].replace("{i}", str(i + 1)) for i in range(len(case["images"])))
    text = template.replace("<score_range>", "25").replace("<instruction>", case["instruction"])
    messages = ours[case["prompt"]].render(
        case["instruction"], sources=len(golden()["cases"][case["case"]]["images"]) - 1
    )
    pieces = ours.markup_for("qwen2_5_vl").pieces(messages)
    assert "".join(piece.text for piece in pieces) == chat["prefix"] + images + text + chat["suffix"]


STRICT = {
    '{"reasoning": "ok", "success": 3, "preservation": 2.5}': (3, 2.5),
    'Here it is:\n```json\n{"reasoning": "a\nb {c}", "success": 1, "preservation": 4}\n```\nBye {x}': (1, 4),
    '{"preservation": 4, "success": 1}': (1, 4),
    '{"reasoning": "ok", "success": 3}': "preservation is missing",
    '{"reasoning": "ok", "success": "3", "preservation": 2}': "success is '3', not a number",
    '{"reasoning": "ok", "success": true, "preservation": 2}': "success is True, not a number",
    '{"reasoning": "ok", "success": null, "preservation": 2}': "success is None, not a number",
    '{"reasoning": "ok", "success": NaN, "preservation": 2}': "success is nan, out of 1..4",
    '{"reasoning": "ok", "success": 1e999, "preservation": 2}': "success is inf, out of 1..4",
    '{"reasoning": "ok", "success": 5, "preservation": 2}': "success is 5, out of 1..4",
    '{"reasoning": "ok", "success": 3, "preservation": 2, "overall": 2}': "overall was not asked for",
    '{"success": 3, "preservation": 2, "success": 4}': "success is there twice",
    '{"success": 3, "preservation": 2} {"success": 4, "preservation": 2}': "there are 2 answers in it",
    '{"reasoning": "ok", "success": 3, "pres': "it is cut off, or not JSON",
    '{"reasoning": "the "word" is", "success": 3, "preservation": 2}': "it is not JSON",
    "I would give 3 and 4.": "there is no JSON object in 'I would give 3 and 4.'",
    "  ": "the answer is empty",
    '{"success": ' + "9" * 5000 + ', "preservation": 2}': "it is not JSON",
    '{"a": ' * 100_000: "it is cut off, or not JSON",
}


@pytest.mark.parametrize(("text", "expected"), STRICT.items(), ids=range(len(STRICT)))
def test_the_strict_rule_takes_what_was_asked_for_and_says_what_is_wrong_with_all_else(text, expected):
    answer = OURS.parse(OURS["IF"], text)
    if isinstance(expected, str):
        assert answer == ParseFailure(expected)
    else:
        assert isinstance(answer, ParsedAnswer) and answer.numbers == expected and not answer.guessed


@pytest.mark.parametrize("text", ["[3, 4]", " [3,4]\n", "```\n[3, 4]\n```"])
def test_scores_alone_are_read_from_their_form(text):
    assert SCORES.parse(SCORES["IF"], text).numbers == (3, 4)


@pytest.mark.parametrize(
    "text", ["[3, 4", "[3]", "[3, 4, 2]", "[3, 5]", "[03, 4]", "3, 4", "[3, x]", "Scores: [3, 4]"]
)
def test_scores_alone_of_another_form_are_refused(text):
    assert isinstance(SCORES.parse(SCORES["IF"], text), ParseFailure)


@pytest.mark.parametrize("row", golden()["parsing"], ids=lambda row: row["kind"])
def test_the_strict_rule_gives_two_numbers_in_range_or_none(row, editscore):
    answer = editscore.parse(editscore["SC"], row["answer"], "strict")
    if isinstance(answer, ParsedAnswer):
        published = row["single_parser"].get("returns")
        assert len(answer.numbers) == 2 and all(0 <= one <= 25 for one in answer.numbers)
        if not row["depends_on_json_repair_version"] and isinstance(published, dict):
            assert list(answer.numbers) == [number(one) for one in published["score"]]


def test_what_the_strict_rule_says_of_the_golden_answers(editscore):
    """Which kinds are read: a change of the rule shows here."""
    answers = {row["kind"]: editscore.parse(editscore["SC"], row["answer"], "strict") for row in golden()["parsing"]}
    read = {kind for kind, answer in answers.items() if isinstance(answer, ParsedAnswer)}
    assert {"clean", "code_fence_json", "leading_text", "trailing_text", "score_key_first", "exponent"} <= read
    assert not read & {
        "two_objects",
        "one_score_list",
        "three_scores",
        "strings_as_numbers",
        "refusal",
        "duplicate_key",
    }
    assert not read & {
        "list_only_no_space",
        "number_only_small",
        "prose_with_numbers",
        "single_quotes",
        "leading_zero",
    }


@settings(deadline=None, max_examples=50)
@pytest.mark.parametrize("ours", [OURS, SCORES, WORDS], ids=lambda ours: ours.name)
@given(data=st.data())
def test_what_is_written_in_the_form_is_read_back(ours, data):
    for prompt in ours.prompts:
        numbers = tuple(data.draw(st.integers(score.low, score.high)) for score in prompt.sub_scores)
        reasoning = data.draw(st.text(st.characters(codec="utf-8"))) if prompt.has_reasoning else ""
        reasoning = reasoning.strip() if prompt.answer.form else reasoning
        text = prompt.answer_of(numbers, reasoning)
        assert ours.parse(prompt, text) == ParsedAnswer(numbers, reasoning)
        assert text.endswith(prompt.closing)


def test_the_pieces_of_a_form_alternate_and_close_each_number():
    prompt = SCORES["IF"]
    first, second = prompt.sub_scores
    assert prompt.answer.pieces(prompt.sub_scores) == ("[", first, ", ", second, "]")
    with pytest.raises(ValueError, match="reasoning"):
        OURS["IF"].answer.pieces(prompt.sub_scores)


@pytest.mark.parametrize("form", ["{reasoning} {reasoning} {n},", "{n}, {reasoning}", "{n}, {reasoning}."])
def test_reasoning_has_one_place_in_a_form_before_the_last_number(form):
    made = {"name": "P", "messages": [{"role": "user", "content": "{instruction} {edited}"}]}
    with pytest.raises(ValueError, match="before the last number"):
        Prompt(**made, sub_scores=[{"name": "n", "low": 1, "high": 4}], answer={"form": form})


def test_scores_are_the_rules_written_out():
    passes = [{"IF": (3, 2), "VQ": (4, 3.5)}, {"IF": (1, 4), "VQ": (2, 2)}]
    found = OURS.aggregate(passes)
    overall = [(min(3, 2) + 3.5) / 2, (1 + 2) / 2]
    assert [one.overall for one in found.passes] == pytest.approx(overall)
    assert found.overall == pytest.approx(np.mean(overall))
    assert found.dimensions == {"instruction_following": pytest.approx(1.5), "visual_quality": pytest.approx(2.75)}


@cache
def published_set(entry, high, rule):
    """A set that combines numbers as one of the published entry points does."""
    _, content = read_content("editscore" if entry == "evaluate" else "editscore-batch")
    del content["texts"]
    content["passes"] = rule
    for prompt in content["prompts"]:
        prompt["messages"][0]["content"] = "{edited}{instruction}"
        prompt["sub_scores"] = [{**score, "high": high} for score in prompt["sub_scores"]]
    return validated(PromptSet, content, entry)


def numbers_of(entry, row, index):
    """Numbers of a pass; in place of a text, what the published code makes of it."""
    found = {"SC": row["sc"][index], "PQ": row["pq"][index]}
    unread = [name for name, numbers in found.items() if isinstance(numbers, str)]
    if unread and entry == "evaluate":  # the good half goes, too
        return {name: [guess] * 2 for name, guess in zip(found, guesses(42 + index, row["score_range"]), strict=True)}
    return {name: () if name in unread else list(map(number, numbers)) for name, numbers in found.items()}


@pytest.mark.parametrize("entry", ["evaluate", "batch_evaluate"])
def test_aggregation_is_that_of_both_published_entry_points(entry):
    compared = 0
    for row in golden()["aggregation"]:
        expected = row[entry].get("returns")
        passes = [numbers_of(entry, row, index) for index in range(row["num_pass"])]
        if expected is None:
            continue
        rule = f"{entry}_average_first" if row["reduction"] == "average_first" else "average_last"
        found = published_set(entry, row["score_range"], rule).aggregate(passes)
        names = {"semantic_consistency": "SC_score", "perceptual_quality": "PQ_score"}
        overall = number(expected["overall" if entry == "evaluate" else "O_score"])
        assert found.overall == pytest.approx(overall, abs=1e-9, nan_ok=True), row
        for dimension, value in found.dimensions.items():
            key = dimension if entry == "evaluate" else names[dimension]
            assert value == pytest.approx(number(expected[key]), abs=1e-9, nan_ok=True), row
        compared += 1
    assert compared >= 20


def test_the_fingerprint_is_of_all_that_is_asked_and_of_how_it_is_read(tmp_path):
    seen = {OURS.fingerprint}
    text = (FOLDER / "editreward.yaml").read_text(encoding="utf-8")
    for old, new in (("worst", "poorest"), ("high: 4", "high: 5"), ("combination: mean", "combination: min")):
        (tmp_path / "own.yaml").write_text(text.replace(old, new), encoding="utf-8")
        seen.add(load_prompt_set(tmp_path / "own.yaml").fingerprint)
    assert len(seen) == 4
    (tmp_path / "same.yaml").write_text(text, encoding="utf-8")
    assert load_prompt_set(tmp_path / "same.yaml").fingerprint in seen


SOURCE = '''
import os
os.mkdir("ran")  # never
_context_no_delimit_reasoning_first = """The context, 10 times.
"""
_prompts_0shot_two_image_edit_rule = "Two images."
_prompts_0shot_tie_rule_SC: str = "From 0 to 10. [10, 10] <instruction>\\n"
_prompts_0shot_rule_PQ = "From 0 to 10."
'''


def test_texts_of_a_python_file_are_read_without_running_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("vie_prompts.py").write_text(SOURCE, encoding="utf-8")
    made = import_prompts("vie_prompts.py", "editscore", "prompts.yaml")
    assert not Path("ran").exists()
    assert made["SC"].render("go")[0].text == "The context, 10 times.\n\nTwo images.\nFrom 0 to 25. [25, 25] go\n"
    assert made["PQ"].render("go")[0].text == "The context, 10 times.\n\nFrom 0 to 25."
    assert load_prompt_set("prompts.yaml") == made
    assert load_prompt_set("prompts.yaml").fingerprint == made.fingerprint


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.py", "a = 1", "x.py has no string constant _context_no_delimit_reasoning_first, a part of SC"),
        ("x.py", SOURCE.replace("<instruction>", ""), "the text lacks the marker <instruction>"),
        ("x.py", SOURCE.replace("Two images", "{source}"), "holds {source}, which would be taken for a slot"),
        ("x.py", "def", "neither .json nor Python"),
        ("x.json", "{", "is not JSON"),
        ("x.json", '{"SC": "<instruction>"}', "has no text 'PQ'"),
        ("x.json", "[]", "has no text 'SC'"),
    ],
)
def test_a_file_without_the_texts_is_refused_in_one_line(name, text, message, tmp_path):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=".") as error:
        import_prompts(tmp_path / name, "editscore", tmp_path / "prompts.yaml")
    assert message in str(error.value) and "\n" not in str(error.value).replace(text, "")
    assert not (tmp_path / "prompts.yaml").exists()


def change(**changes):
    content = yaml.safe_load((FOLDER / "editreward.yaml").read_text(encoding="utf-8"))
    for name, value in changes.items():
        content[name] = value
    return content


def changed_prompt(**changes):
    content = change()
    content["prompts"][0] |= changes
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (change(scale=[4, 1]), "scale must rise"),
        (change(scale=[-1, 1], combination="geometric_mean"), "geometric_mean` needs a scale from 0 on, not -1..1"),
        (change(dimensions={"a": "IF.nothing"}), "there is no prompt or sub-score 'IF.nothing'"),
        (change(colour="red"), "colour is unknown"),
        (change(parse_rule="published"), "needs `published`"),
        (changed_prompt(messages=[{"role": "user", "content": "{source}{edited}"}]), "the marker {instruction}"),
        (changed_prompt(sub_scores=[{"name": "a", "low": 2, "high": 2}]), "low 2 is not below high 2"),
        (changed_prompt(sub_scores=[{"name": "a", "low": 1, "high": 2}] * 2), "two sub-scores have the same name"),
        (changed_prompt(answer={"form": "[{success}]"}), "`form` must have {success}, {preservation}"),
        (changed_prompt(answer={"form": "{success}{preservation}"}), "`form` must close each number"),
        ([], "it has no entries"),
    ],
)
def test_a_wrong_file_is_refused_with_its_fault(content, message, tmp_path):
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(ValueError, match=".") as error:
        load_prompt_set(tmp_path / "own.yaml")
    assert message in str(error.value) and "own.yaml" in str(error.value)


def test_structures_say_where_texts_come_from():
    for name in ("editscore", "editscore-batch", "viescore"):
        assert name in list_prompt_sets()
        with pytest.raises(ValueError, match=f"editreward prompts import --from FILE --as {name}"):
            load_prompt_set(name)
    with pytest.raises(ValueError, match="There is no prompt set 'nothing': name one of editreward"):
        load_prompt_set("nothing")


def test_nothing_heavy_is_imported():
    code = "import editreward.scorers.prompts, sys; assert not {'torch', 'openai', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_mean_of_passes_is_exact_and_lets_nan_through(editscore):
    found = editscore.aggregate([{"SC": (25, 25), "PQ": (25, math.nan)}, {"SC": (25, 25), "PQ": (25, 25)}])
    assert found.dimensions["prompt_following"] == 10
