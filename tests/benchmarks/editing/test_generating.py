"""Images of an editor for GEdit-Bench: made once, resumed, and laid out as published."""

from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PillowImage
from PIL import ImageOps

from editreward.benchmarks.editing import imgedit_judging
from editreward.benchmarks.editing.gedit_bench import TASKS
from editreward.benchmarks.editing.judging import edits_of
from editreward.cli.edit_bench_generate import generate_results, instructions_of, instructions_of_imgedit
from tests.helpers.pictures import picture


class Inverts:
    """An editor that inverts the source, and counts; it fails on an instruction."""

    name = "inverts"

    def __init__(self, seeds: tuple[int, ...] = (3,), fails: str = "") -> None:
        self.seeds, self.fails, self.made = seeds, fails, []

    def settings(self):
        return {"inverts": True}

    def check(self):
        pass

    def load(self, device):
        def edit(row, seed):
            if row.instruction == self.fails:
                raise RuntimeError("out of memory")
            self.made.append(row.instruction)
            return ImageOps.invert(row.images()[0])

        return edit


def dataset() -> Dataset:
    rows = {
        "task_type": list(TASKS[:4]),
        "key": [f"k{n}" for n in range(4)],
        "instruction_language": ["cn", "en", "en", "en"],
        "instruction": [f"edit {n}" for n in range(4)],
        "Intersection_exist": [True] * 4,
        "input_image": [{"bytes": picture(n, "PNG"), "path": None} for n in range(4)],
    }
    texts = {name: Value("string") for name in ("task_type", "key", "instruction_language", "instruction")}
    return Dataset.from_dict(rows, Features({**texts, "Intersection_exist": Value("bool"), "input_image": Image()}))


def test_images_are_laid_out_as_published_and_a_second_run_makes_what_failed(tmp_path: Path):
    rows = dataset()
    edits = [edit for edit in edits_of(rows.remove_columns("input_image")) if edit.language == "en"]
    instructions = instructions_of(edits, rows)
    places = {edit.id: edit.files(tmp_path) for edit in edits}
    first = Inverts(fails="edit 2")
    failed = generate_results(places, instructions, first, tmp_path)
    assert list(failed) == [f"{TASKS[2]}/en/k2"] and "out of memory" in failed[edits[1].id]
    assert first.made == ["edit 1", "edit 3"]
    folder = tmp_path / "fullset" / TASKS[3] / "en"
    source, edited = PillowImage.open(folder / "k3_SRCIMG.png"), PillowImage.open(folder / "k3.png")
    assert source.tobytes() == bytes(255 - value for value in edited.tobytes())
    again = Inverts()
    assert generate_results(places, instructions, again, tmp_path) == failed and not again.made
    assert generate_results(places, instructions, again, tmp_path, retry_failed=True) == {} and again.made == [
        "edit 2"
    ]
    assert (tmp_path / "fullset" / TASKS[2] / "en" / "k2.png").is_file()


def test_one_image_of_each_instruction_and_sources_are_needed(tmp_path: Path):
    rows = dataset()
    edits = edits_of(rows.remove_columns("input_image"))
    with pytest.raises(ValueError, match="one seed"):
        generate_results({}, instructions_of(edits, rows), Inverts((1, 2)), tmp_path)
    with pytest.raises(ValueError, match="no column input_image"):
        instructions_of(edits, rows.remove_columns("input_image"))


def test_images_for_imgedit_bench_are_named_by_their_keys(tmp_path: Path):
    (tmp_path / "sources" / "animal").mkdir(parents=True)
    content = {}
    for number in range(3):
        (tmp_path / "sources" / "animal" / f"{number}.png").write_bytes(picture(number, "PNG"))
        content[f"k{number}"] = {"id": f"animal/{number}.png", "prompt": f"edit {number}", "edit_type": "adjust"}
    content["k2"]["id"] = "../k0.png"
    edits = imgedit_judging.edits_of(content)
    places = {edit.key: (None, tmp_path / "images" / f"{edit.key}.png") for edit in edits}
    instructions = instructions_of_imgedit(edits, tmp_path / "sources")
    failed = generate_results(places, instructions, Inverts(), tmp_path / "images")
    assert list(failed) == ["k2"] and "leads out of" in failed["k2"]
    assert sorted(file.name for file in (tmp_path / "images").glob("*.png")) == ["k0.png", "k1.png"]
    source = PillowImage.open(tmp_path / "sources" / "animal" / "1.png")
    edited = PillowImage.open(tmp_path / "images" / "k1.png")
    assert source.tobytes() == bytes(255 - value for value in edited.tobytes())
