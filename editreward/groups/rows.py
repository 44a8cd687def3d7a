"""The type of rows of the dataset schema (`editreward.data.schema`), and of parts of them."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, TypedDict

GroupRow: TypeAlias = Mapping[str, Any]
"""A group as it is stored, a candidate of it or a preference, by the names of the schema."""

GroupRows: TypeAlias = Iterable[GroupRow]
"""Groups as they are stored. Those that several passes need can be gone through several times."""


class ImageRecord(TypedDict):
    """An image as it is stored: its file and the path that it came from, either of which may be missing."""

    bytes: bytes | None
    path: str | None
