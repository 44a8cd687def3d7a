"""The schema of edit groups as a Hugging Face dataset: one row per group, images embedded."""

from collections.abc import Sequence
from typing import TypeAlias

from datasets import Features, Image, List, Value

from configuration_editreward import DEFAULT_DIMENSIONS

SCORE_RANGE = (1.0, 4.0)
"""Lowest and highest score of an annotation, the same for every dimension."""

Group: TypeAlias = dict[str, object]
"""A row: the columns of `group_features`, images in any form that `datasets` encodes."""


def group_features(dimensions: Sequence[str] = DEFAULT_DIMENSIONS) -> Features:
    """Columns of a dataset of edit groups.

    Args:
        dimensions: what candidates are scored on; each is a nullable float, 1 to 4, in `scores` and in `annotations`.
    """
    scores = {dimension: Value("float64") for dimension in dimensions}
    candidate = {
        "image": Image(),
        "editor": Value("string"),
        "seed": Value("int64"),
        "scores": scores,
        "annotations": List({"annotator": Value("string"), **scores}),
        "rationale": Value("string"),
    }
    return Features(
        {
            "group_id": Value("string"),
            "origin": Value("string"),
            "category": Value("string"),
            "instruction": Value("string"),
            "language": Value("string"),
            "source_images": List(Image()),
            "candidates": List(candidate),
            "preferences": List({"chosen": Value("int64"), "rejected": Value("int64"), "weight": Value("float64")}),
        }
    )


def dimensions_of(features: Features) -> list[str]:
    """The dimensions that a dataset with `features` scores its candidates on."""
    return list(features["candidates"].feature["scores"])
