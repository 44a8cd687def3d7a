"""The schema of edit groups as a Hugging Face dataset: one row per group, images embedded."""

import re
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeAlias

import pyarrow as pa
from datasets import Features, Image, List, Value

from configuration_editreward import DEFAULT_DIMENSIONS
from editreward.data.images import LINKED
from editreward.groups.ratings import SCORE_RANGE as SCORE_RANGE
from editreward.groups.rows import GroupRow, ImageRecord

PYTHON_TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "int64": (Integral,), "float64": (Real,)}
"""What a field of a row may be."""

RATIONALE_BY = "rationale_by"
"""The field of candidates that only datasets with rationales by a scorer have."""

UNKNOWN = "unknown"
"""Origin, category or editor that nobody tells."""

CHINESE = re.compile(r"[\u3400-\u9fff]")

Group: TypeAlias = dict[str, object]
"""A row: the columns of `group_features`, images in any form that `datasets` encodes."""


def group_features(dimensions: Sequence[str] = DEFAULT_DIMENSIONS, rationale_by: bool = False) -> Features:
    """Columns of a dataset of edit groups.

    Args:
        dimensions: what candidates are scored on; each is a nullable float, 1 to 4, in `scores` and in `annotations`.
        rationale_by: candidates also have this field: the scorer that wrote the rationale, null where a person did.

    Raises:
        ValueError: there is no dimension, one occurs twice, or one has the name of another column or of the sum of
            all dimensions.
    """
    if not dimensions or len(set(dimensions)) < len(dimensions) or "annotator" in dimensions:
        raise ValueError(f"dimensions must be different names, none of them 'annotator': {list(dimensions)}")
    if "overall" in dimensions and len(dimensions) > 1:
        raise ValueError(f"'overall' is the sum of several dimensions and none of them: {list(dimensions)}")
    scores = {dimension: Value("float64") for dimension in dimensions}
    candidate = {
        "image": Image(),
        "editor": Value("string"),
        "seed": Value("int64"),
        "scores": scores,
        "annotations": List({"annotator": Value("string"), **scores}),
        "rationale": Value("string"),
        **({RATIONALE_BY: Value("string")} if rationale_by else {}),
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


def check_features(features: Features | None, name: object) -> Features:
    """Tell whether a dataset holds edit groups.

    Args:
        features: the dataset's columns.
        name: what to call the dataset in errors.

    Returns:
        The columns as `group_features` gives them for the dataset's dimensions. They may differ from `features` in
        types that can be cast, such as float32 scores, or images in a Parquet file that doesn't say what they are.

    Raises:
        ValueError: the dataset has other columns or fields; the columns are named.
    """
    found = dict(features or {})
    expected = group_features()
    missing, unknown = expected.keys() - found.keys(), found.keys() - expected.keys()
    if not missing and not unknown:
        try:
            given = Features(found)
            expected = group_features(dimensions_of(given), RATIONALE_BY in given["candidates"].feature)
        except (AttributeError, KeyError, TypeError):
            pass  # candidates are no list of structs with scores: said below
    shapes, expected_shapes = column_shapes(Features(found).arrow_schema), column_shapes(expected.arrow_schema)
    differing = {
        column for column in shapes.keys() & expected_shapes.keys() if shapes[column] != expected_shapes[column]
    }
    parts = {"no column": missing, "unknown column": unknown, "other fields in": differing}
    faults = "; ".join(f"{what} {', '.join(sorted(columns))}" for what, columns in parts.items() if columns)
    if faults:
        raise ValueError(f"{name} is not a dataset of edit groups: {faults}.")
    return expected


def column_shapes(schema: pa.Schema) -> dict[str, object]:
    """For each column its lists and fields, whatever types they hold in the end."""
    return {field.name: _shape(field.type) for field in schema}


def _shape(kind: pa.DataType) -> object:
    if pa.types.is_struct(kind):
        return {field.name: _shape(field.type) for field in kind}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [_shape(kind.value_type)]
    return None


def encode_group(group: GroupRow, features: Features) -> dict[str, Any]:
    """A row in the form in which it is stored: every field there, images as `{"bytes", "path"}`.

    Unlike `Features.encode_example` this drops no field that the schema doesn't know, and never takes a file that
    happens to be where a stored `path` points in place of the stored bytes.

    Args:
        group: a row. Fields inside of columns may be left out, which makes them null, or empty where they are lists;
            so may `preferences`.
        features: as `group_features` returns.

    Raises:
        ValueError: a column is missing, a field is unknown, or an image is of no known form.
    """
    missing = features.keys() - group.keys() - {"preferences"}
    if missing:
        raise ValueError(f"no column {', '.join(sorted(missing))}")
    encoded: dict[str, Any] = _encode(group, dict(features), "")
    return encoded


def _encode(value: Any, feature: object, place: str) -> Any:
    if isinstance(feature, dict):
        if value is not None and not isinstance(value, Mapping):
            raise ValueError(f"{place} must be a mapping, not {type(value).__name__}")
        unknown = ", ".join(sorted(map(str, (value or {}).keys() - feature.keys())))
        if unknown:
            raise ValueError(f"unknown {place}: {unknown}" if place else f"unknown column {unknown}")
        return {
            name: _encode((value or {}).get(name), inner, f"{place}.{name}" if place else name)
            for name, inner in feature.items()
        }
    if isinstance(feature, List):
        if isinstance(value, str | bytes | Mapping):
            raise ValueError(f"{place} must be a list, not {type(value).__name__}")
        items = [] if value is None else value
        return [_encode(item, feature.feature, f"{place}[{index}]") for index, item in enumerate(items)]
    if isinstance(feature, Image) and value is not None:
        try:
            return encode_image(value)
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError(f"{place} is not an image: {error}") from error
    if isinstance(feature, Value) and value is not None and not isinstance(value, PYTHON_TYPES[feature.dtype]):
        raise ValueError(f"{place} must be a {feature.dtype}, not {value!r}")
    return value


def language_of(text: str) -> str:
    """ "zh" for a text with Chinese characters, "en" for any other: the published sets have these two."""
    return "zh" if CHINESE.search(text) else "en"


def encode_image(image: object) -> ImageRecord:
    """An image as `{"bytes", "path"}`, from any form that `datasets.Image` encodes: path, bytes, PIL, numpy, or this.

    A PIL image that was opened from a file is stored as that file, hence without another loss of quality. An array or
    tensor of anything but uint8 becomes 8 bits as it does where it is scored.

    Raises:
        ValueError: its numbers are no image; the message says what they are.
    """
    if isinstance(image, Mapping) and image.get("bytes") is not None:
        return {"bytes": image["bytes"], "path": image.get("path")}
    if isinstance(image, Mapping) and image.get("path"):
        raise ValueError(f"{LINKED} (it holds {image['path']!r})")
    if str(getattr(image, "dtype", "uint8")).removeprefix("torch.") != "uint8":
        from processing_editreward import load_image

        image = load_image(image, "the array")
    encoded: ImageRecord = Image().encode_example(image)
    return encoded
