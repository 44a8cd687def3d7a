"""Maps of what speaks against an edit: boxes, pictures, plain data."""

import numpy as np
import pytest
from PIL import Image

from editreward.groups.where import HEAT, Box, Where


@pytest.fixture
def found():
    image = Image.new("RGB", (200, 100), "white")
    following, quality = np.zeros((100, 200), np.float32), np.zeros((100, 200), np.float32)
    following[10:30, 20:60] = 0.9
    following[50:90, 100:180] = 0.6
    following[0:2, 0:2] = 1.0  # too small for a box
    quality[:, 150:] = 0.4
    maps = {"instruction_following": following, "visual_quality": quality}
    return Where(image, maps, {"artefact": quality}, "heads")


def test_boxes_lie_around_what_reaches_the_threshold_the_strongest_first(found):
    first, second = found.boxes("instruction_following")
    for box, truth in ((first, (20, 10, 60, 30)), (second, (100, 50, 180, 90))):
        assert np.abs(np.array([box.left, box.top, box.right, box.bottom]) - truth).max() <= 4  # the grid's step
    assert (first.strength, second.strength) == pytest.approx((0.9, 0.6))
    assert found.boxes("visual_quality") == []
    assert len(found.boxes("visual_quality", threshold=0.3)) == 1
    assert found.boxes("instruction_following", threshold=0.7) == [first]


def test_cells_that_touch_at_a_corner_are_two_boxes():
    values = np.kron(np.eye(2, dtype=np.float32), np.ones((32, 32), np.float32))
    boxes = Where(Image.new("RGB", (64, 64)), {"overall": values}).boxes()
    assert set(boxes) == {Box(0, 0, 32, 32, 1.0), Box(32, 32, 64, 64, 1.0)}


def test_a_map_without_a_name_is_the_largest_of_all_dimensions(found):
    assert (found.map() == np.maximum(found.map("instruction_following"), found.map("visual_quality"))).all()
    with pytest.raises(KeyError, match="artefact"):
        found.map("colour")


def test_the_picture_is_pale_where_nothing_is_wrong_and_red_where_something_is(found):
    picture = np.asarray(found.picture("instruction_following", boxes=False), dtype=float)
    assert picture.shape == (100, 200, 3)
    assert (picture[95, 5] == 255).all()
    expected = 255 * (1 - 0.75 * 0.9) + 0.75 * 0.9 * np.array(HEAT)
    assert picture[20, 40] == pytest.approx(expected, abs=1)
    assert np.asarray(found.picture("instruction_following"))[10, 40] == pytest.approx(HEAT)


def test_plain_data_has_boxes_and_highest_values(found):
    plain = found.to_dict()
    assert plain["method"] == "heads" and plain["artefact"] == {"highest": pytest.approx(0.4), "boxes": []}
    assert plain["instruction_following"]["boxes"][0]["strength"] == pytest.approx(0.9)
