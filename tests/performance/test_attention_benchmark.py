"""The benchmark of attention on a CPU: all ways compute the same, and the table has all shapes and precisions."""

import attention
import pytest
import torch

SMALL = attention.Shape("small", 3, 2, 4, 6, 8)


@pytest.mark.parametrize("keys", [4, 6])
def test_all_ways_compute_the_same(keys, monkeypatch):
    monkeypatch.setattr(attention.modeling_editreward, "CACHED_LOGITS", 4 * keys)  # a head at once
    tensors, mask = attention.Shape("small", 3, 2, 4, keys, 8).inputs(torch.float32)
    assert (mask is None) == (keys == 4)
    fused, whole, pieces = (attention.attend(way, tensors, mask) for way in attention.WAYS)
    torch.testing.assert_close(whole, fused)
    torch.testing.assert_close(pieces, fused)


def test_the_table_has_a_row_for_each_shape_and_precision(monkeypatch):
    monkeypatch.setattr(attention, "SHAPES", (SMALL,))
    _, _, *rows = attention.main(["--repetitions", "1"]).splitlines()
    assert [row.split(" | ")[1] for row in rows] == ["float32", "bfloat16"]
    assert all(
        float(cell) > 0 for row in rows for cells in row.strip("| ").split(" | ")[2:] for cell in cells.split(",")
    )
