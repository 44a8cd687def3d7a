"""Rows of the dataset schema as edit groups."""

from PIL import Image

from editreward.groups import EditGroup
from editreward.groups.rows import GroupRow


def edit_group(row: GroupRow, instruction: str | None = None) -> EditGroup:
    """The group of a row whose images are as they are stored, `{"bytes", "path"}`, or rendered (`simulated`).

    Args:
        row: of the dataset schema; `group_id` may be missing.
        instruction: to show in place of the row's own.

    Returns:
        The group; an image is the bytes of its file, or as rendered.
    """
    return EditGroup(
        sources=[stored_image(image) for image in row["source_images"] or ()],
        instruction=row["instruction"] if instruction is None else instruction,
        edited=[stored_image((candidate or {}).get("image")) for candidate in row["candidates"] or ()],
        group_id=row.get("group_id") or "",
    )


def stored_image(record: GroupRow | Image.Image | None) -> bytes | GroupRow | Image.Image:
    """The bytes of a stored image, empty where there is none; a record with only a path stays: no reader takes it."""
    if isinstance(record, Image.Image):
        return record
    if record is None or (record.get("bytes") is None and not record.get("path")):
        return b""
    return record if record.get("bytes") is None else bytes(record["bytes"])


def stored_bytes(row: GroupRow) -> int:
    """How much memory the images of a row take as they are stored, or rendered."""
    images = [*(row["source_images"] or ()), *((one or {}).get("image") for one in row["candidates"] or ())]
    return sum(
        3 * image.width * image.height if isinstance(image, Image.Image) else len((image or {}).get("bytes") or b"")
        for image in images
    )
