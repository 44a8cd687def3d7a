"""What two datasets share, and rows that a person should look at."""

import io
import json
import random
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from skimage import data

from editreward.cli import command as cli
from editreward.curation.contamination import (
    normalise_text,
    shared_instructions,
    shared_sources,
    take_prints,
)
from editreward.curation.flags import (
    WORDS,
    face_counter,
    flag_groups,
    load_filter,
    read_words,
    word_matcher,
)
from editreward.data.storage import write_groups
from editreward.simulation.groups import simulate_group


def file_of(image: Image.Image, format: str = "PNG", **options: Any) -> dict[str, Any]:
    out = io.BytesIO()
    image.save(out, format, **options)
    return {"bytes": out.getvalue(), "path": None}


def group_of(group_id: str, instruction: str, *sources: dict | None, **fields: Any) -> dict[str, Any]:
    candidate = {"image": file_of(Image.new("RGB", (8, 8))), "editor": "e", "seed": None, "annotations": []}
    candidate |= {"scores": {"instruction_following": 1.0, "visual_quality": 1.0}, "rationale": None}
    columns = {"origin": "test", "category": "add", "language": "en", "preferences": []}
    candidates = [candidate, dict(candidate)]
    return {**columns, "group_id": group_id, "instruction": instruction, "source_images": list(sources)} | {
        "candidates": candidates,
        **fields,
    }


def photos() -> list[Image.Image]:
    return [Image.fromarray(image) for image in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())]


def test_texts_that_mean_the_same_normalise_to_the_same():
    same = [
        "Make the CAT red!",
        "make the cat red",
        "  make\tthe\n cat  red.",
        "ｍａｋｅ the cat red",
        '"Make the cat red"',
    ]
    assert {normalise_text(text) for text in same} == {"make the cat red"}
    assert normalise_text("把猫变红。") == normalise_text("把猫变红") == normalise_text("把猫变红！")
    assert normalise_text("Stra\u00dfe") == normalise_text("STRASSE")
    assert normalise_text("cafe\u0301") == normalise_text("caf\u00e9")
    for one, other in [("add 1 cat", "add 2 cats"), ("red cat", "redcat"), ("a + b", "a b"), ("红", "蓝")]:
        assert normalise_text(one) != normalise_text(other)
    for text in same:
        assert normalise_text(normalise_text(text)) == normalise_text(text)
    assert normalise_text(" ?! ") == ""


def test_changed_copies_of_an_image_are_found_and_other_images_are_not():
    changed = {
        "same pixels, another file": lambda image: file_of(image, "PNG", compress_level=1),
        "JPEG": lambda image: file_of(image, "JPEG", quality=40),
        "smaller": lambda image: file_of(image.resize((image.width // 3, image.height // 3))),
        "larger": lambda image: file_of(image.resize((image.width * 2, image.height * 2))),
        "brighter": lambda image: file_of(image.point(lambda value: min(255, int(value * 1.1)))),
    }
    images = photos()
    a = take_prints(group_of(f"a{n}", f"text {n}", file_of(image)) for n, image in enumerate(images))
    for what, change in changed.items():
        b = take_prints(group_of(f"b{n}", f"TEXT {n}.", change(image)) for n, image in enumerate(images))
        shared = shared_sources(a, b)
        assert {(one.a, one.b) for one in shared} == {(f"a{n}", f"b{n}") for n in range(len(images))}, what
        assert all(one.identical == (what == "same pixels, another file") for one in shared), what
        assert all(one.same_instruction for one in shared)
    others = [ImageOps.mirror(images[0]), Image.fromarray(data.retina()), Image.fromarray(data.hubble_deep_field())]
    assert shared_sources(a, take_prints(group_of("x", "text", file_of(image)) for image in others)) == []


def test_every_near_pair_is_found_by_brute_force(monkeypatch):
    rng = random.Random(0)
    monkeypatch.setattr("editreward.curation.contamination.COMPARED_AT_ONCE", 100)
    noise = [Image.frombytes("L", (32, 32), rng.randbytes(1024)).resize((64, 64)) for _ in range(6)]
    images = [Image.blend(rng.choice(noise), rng.choice(noise), rng.choice([0, 0.05, 0.1])) for _ in range(60)]
    a = take_prints(group_of(f"a{n}", "", file_of(image)) for n, image in enumerate(images[:30]))
    b = take_prints(group_of(f"b{n}", "", file_of(image)) for n, image in enumerate(images[30:]))
    for near_bits in (0, 4, 10):
        expected = {
            (x.group_id, y.group_id, (x.hash ^ y.hash).bit_count())
            for x in a.sources
            for y in b.sources
            if (x.hash ^ y.hash).bit_count() <= near_bits
        }
        assert {(one.a, one.b, one.bits) for one in shared_sources(a, b, near_bits)} == expected
        assert expected
    assert not any(one.same_instruction for one in shared_sources(a, b))  # empty texts are equal to nothing
    with pytest.raises(ValueError, match="near_bits must be from 0 to 16"):
        shared_sources(a, b, 17)


def test_shared_instructions_come_with_the_groups_of_both():
    a = take_prints([group_of("a0", "Add a cat."), group_of("a1", "remove the dog"), group_of("a2", "add a CAT")])
    b = take_prints([group_of("b0", "add a cat!"), group_of("b1", "something else"), group_of("b2", "")])
    (shared,) = shared_instructions(a, b)
    assert (shared.instruction, shared.a, shared.b) == ("add a cat", ["a0", "a2"], ["b0"])


def test_sources_that_cannot_be_read_are_listed():
    whole = file_of(photos()[0])
    broken = {"bytes": whole["bytes"][:500], "path": None}
    prints = take_prints([group_of("one", "text", whole, broken), group_of("two", "text", None)])
    assert [(one["group_id"], one["image"]) for one in prints.unreadable] == [("one", 1), ("two", 0)]
    assert [(one.group_id, one.image) for one in prints.sources] == [("one", 0)] and prints.groups == 2


def test_the_contamination_command_prints_writes_and_exits_with_one(tmp_path, capsys):
    cat, cup, rocket = photos()[2], photos()[1], photos()[3]
    training = [group_of("train0", "Add a hat", file_of(cat)), group_of("train1", "remove the cup", file_of(cup))]
    write_groups(training, tmp_path / "train")
    bench = [group_of("bench0", "add a hat!", file_of(cat, "JPEG")), group_of("bench1", "x", file_of(rocket))]
    write_groups(bench, tmp_path / "bench", split="test")
    report = tmp_path / "shared.json"
    arguments = ["data", "contamination", str(tmp_path / "train"), str(tmp_path / "bench")]
    assert cli.main([*arguments, "--output", str(tmp_path / "new" / "folder" / "x.json")]) == 1
    assert (tmp_path / "new" / "folder" / "x.json").exists()
    capsys.readouterr()
    assert cli.main([*arguments, "--output", str(report)]) == 1
    out = capsys.readouterr().out
    assert "Source images: 1 pairs (0 identical, 1 with the same instruction); they concern 1 of 2" in out
    assert "train0  bench0" in out and "1 and 1 groups: add a hat" in out
    found = json.loads(report.read_text())
    assert [(one["a"], one["b"]) for one in found["sources"]] == [("train0", "bench0")]
    assert found["instructions"] == [{"instruction": "add a hat", "a": ["train0"], "b": ["bench0"]}]
    write_groups([group_of("other", "other", file_of(rocket))], tmp_path / "clean")
    assert cli.main(["data", "contamination", str(tmp_path / "train"), str(tmp_path / "clean")]) == 0
    assert cli.main([*arguments, "--split-b", "train"]) == 2
    assert "has no split 'train'" in capsys.readouterr().err


def flags_of(group: dict[str, Any], **options: Any) -> list[tuple[str, str, str]]:
    (flagged,) = flag_groups([group], **options)
    return [(flag.kind, flag.where, flag.detail) for flag in flagged.flags]


def test_words_match_whole_words_their_plurals_and_any_case():
    match = word_matcher(["person", "man", "baby", "人", "self-harm"])
    assert match("Two PERSONS and a man's hat") == ["persons", "man's"]
    assert match("a human manual, romance, babysitter") == []
    assert match("把人移走") == ["人"] and match("ＭＡＮ") == ["man"] and match("show self-harm") == ["self-harm"]
    assert match("") == [] and word_matcher([])("person") == []
    assert set(WORDS) == {"people", "unsafe"}


def test_texts_of_groups_are_flagged_with_where_and_what():
    group = group_of("g", "Give the woman a gun")
    group["candidates"][1] = group["candidates"][1] | {"rationale": "her face is blurred"}
    assert flags_of(group) == [
        *(("people", "instruction", "woman"), ("unsafe", "instruction", "gun")),
        ("people", "rationale 1", "her, face"),
    ]
    assert flags_of(group_of("g", "make the sky red")) == []
    assert flags_of(group, words={"weapons": ["gun"]}) == [("weapons", "instruction", "gun")]


def test_faces_are_counted_in_photographs_and_not_elsewhere():
    count = face_counter()
    assert count is not None, "the dev extra installs dlib-bin"
    astronaut, coffee, cat, rocket = photos()
    assert count(astronaut) == 1
    assert count(astronaut.resize((84, 84))) == 1
    pair = Image.new("RGB", (1024, 512))
    pair.paste(astronaut, (0, 0))
    pair.paste(astronaut, (512, 0))
    assert count(pair) == 2
    scenes = [simulate_group(seed, candidates=1, size=84).source for seed in range(5)]
    assert [count(image) for image in (coffee, cat, rocket, *scenes)] == [0] * 8
    tall = Image.fromarray(np.zeros((3000, 20), dtype=np.uint8))
    assert count(tall) == 0


def test_images_with_faces_and_unreadable_ones_are_flagged():
    face = file_of(photos()[0])
    group = group_of("g", "make it red", file_of(photos()[1]), {"bytes": b"broken", "path": None})
    group["candidates"][1] = group["candidates"][1] | {"image": face}
    count = face_counter()
    found = flags_of(group, count_faces=count)
    assert [(kind, where) for kind, where, _ in found] == [("unreadable", "source 1"), ("faces", "candidate 1")]
    assert found[1][2] == "1"
    assert [flag[0] for flag in flags_of(group, count_faces=count, candidates=False)] == ["unreadable"]


def test_filters_flag_what_they_return(tmp_path):
    assert flags_of(group_of("g", "x"), filters=[lambda group: None, lambda group: []]) == []
    found = flags_of(group_of("g", "x"), filters=[lambda group: group["group_id"], lambda group: ["two", "reasons"]])
    assert found == [("filter", "filter", reason) for reason in ("g", "two", "reasons")]
    (tmp_path / "rules.py").write_text(
        "def wants(group):\n    return 'long' if len(group['instruction']) > 3 else None\n"
    )
    wants = load_filter(f"{tmp_path / 'rules.py'}:wants")
    assert flags_of(group_of("g", "make"), filters=[wants]) == [("filter", "filter", "long")]
    assert load_filter("os.path:basename")("a/b") == "b"
    for name, message in [
        ("rules.py", "takes FILE.py:FUNCTION"),
        (f"{tmp_path / 'none.py'}:wants", "there is no file"),
        (f"{tmp_path / 'rules.py'}:other", "has no function other"),
        ("no_such_module_here:function", "No module named"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_filter(name)


def test_lists_of_words_come_from_a_file(tmp_path):
    file = tmp_path / "words.json"
    file.write_text('{"brands": ["Acme"]}')
    assert read_words(file) == {"brands": ("Acme",)}
    for text in ("[", "[]", '{"brands": "Acme"}', '{"brands": [1]}'):
        file.write_text(text)
        with pytest.raises(ValueError, match="words.json"):
            read_words(file)


def test_the_flag_command_lists_groups_for_review(tmp_path, capsys, monkeypatch):
    groups = [
        group_of("face", "make it red", file_of(photos()[0])),
        group_of("text", "give the man a hat", file_of(photos()[1])),
        group_of("none", "make it red", file_of(photos()[1])),
    ]
    write_groups(groups, tmp_path / "groups")
    report = tmp_path / "flags.jsonl"
    arguments = ["data", "flag", str(tmp_path / "groups"), "--output", str(report)]
    assert cli.main([*arguments, "--faces"]) == 0
    assert "2 of 3 groups to look at" in capsys.readouterr().out
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert [(line["group_id"], line["flags"][0]["kind"]) for line in lines] == [("face", "faces"), ("text", "people")]
    assert cli.main([*arguments, "--no-faces"]) == 0
    assert "1 of 3 groups" in (out := capsys.readouterr().out) and "Faces were not counted." in out
    monkeypatch.setitem(__import__("sys").modules, "dlib", None)  # as if it were not installed
    assert cli.main([*arguments, "--faces"]) == 2
    assert "pip install 'editreward[faces]'" in capsys.readouterr().err
    assert cli.main(arguments) == 0
    assert "Faces were not counted: pip install" in capsys.readouterr().out
    before = report.read_bytes()
    (tmp_path / "rules.py").write_text("def fails(group):\n    raise RuntimeError('in the middle')\n")
    assert cli.main([*arguments, "--no-faces", "--filter", f"{tmp_path / 'rules.py'}:fails"]) == 2
    assert "in the middle" in capsys.readouterr().err
    assert report.read_bytes() == before  # not a part of a list, which looks like all of it
