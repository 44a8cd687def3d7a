"""Rows as edit groups."""

from editreward.data.rows import edit_group
from editreward.data.sources import SimulatedGroups


def test_simulated_rows_keep_their_rendered_images():
    row = SimulatedGroups(1, size=84).row(0, "test")
    group = edit_group(row)
    assert list(group.sources) == row["source_images"]
    assert list(group.edited) == [candidate["image"] for candidate in row["candidates"]]
    assert (group.instruction, group.group_id) == (row["instruction"], row["group_id"])


def test_a_stored_image_is_its_bytes_and_a_path_in_their_place_stays_a_record():
    link = {"bytes": None, "path": "b.png"}
    row = {
        "source_images": [{"bytes": b"x", "path": "a.png"}, link, None],
        "instruction": "edit",
        "candidates": [None],
    }
    assert list(edit_group(row).sources) == [b"x", link, b""]
    assert list(edit_group(row, "another").edited) == [b""]
