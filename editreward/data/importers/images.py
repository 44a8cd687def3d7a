"""Images of an import: references while rows are sorted into groups, bytes only while a group is written."""

import hashlib
import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from editreward.data.images import extension_of
from editreward.data.importers.faults import RowFault
from editreward.files import write_bytes
from editreward.groups.rows import ImageRecord
from images_editreward import ImageError, image_header, load_image

EMBEDDED = "sha256:"
"""Begins the reference to an image that came inside of its row, and was put aside under its hash."""

LONGEST_NAMED = 200
"""Characters of a reference that a report repeats: it may be a whole image as text."""


class ImageStore:
    """Turns image cells into references and references into images.

    Args:
        root: folder that paths are relative to.
        aside: folder for images that come inside of rows, each stored once.
        strip: a prefix to take off paths, for files that were written on another machine.
        decode: decode every image to be sure that it is whole; otherwise only read its header.
    """

    def __init__(self, root: Path, aside: Path, strip: str = "", decode: bool = True) -> None:
        self.root, self.aside, self.strip, self.decode = root, aside, strip, decode

    def refer(self, cell: object) -> object:
        """The reference to the image, or images, of a cell: a path as it stands, or the hash of embedded bytes.

        Raises:
            RowFault: the cell is neither a path, nor `{"bytes", "path"}`, nor a list of these.
        """
        if isinstance(cell, list):
            return [self.refer(item) for item in cell]
        if isinstance(cell, Mapping) and isinstance(cell.get("bytes"), bytes | None):
            return self._put_aside(cell["bytes"]) if cell.get("bytes") is not None else cell.get("path")
        if isinstance(cell, bytes):
            return self._put_aside(cell)
        if cell is None or isinstance(cell, str):
            return cell
        raise RowFault("not-an-image", f"an image must be a path or an embedded image, not {type(cell).__name__}")

    def _put_aside(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        file = self._aside_file(digest)
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(file, data, durable=False)
        return EMBEDDED + digest

    def _aside_file(self, digest: str) -> Path:
        return self.aside / digest[:2] / digest

    def locate(self, reference: str) -> Path:
        """The file of a reference.

        Raises:
            RowFault: the path leads out of the image folder, or the reference is to no image that was put aside.
        """
        if reference.startswith(EMBEDDED):
            digest = reference.removeprefix(EMBEDDED)
            if not re.fullmatch("[0-9a-f]{64}", digest):  # a text of the input, which might be a path to anywhere
                raise RowFault("missing-image", f"{_short(reference)} is no file")
            return self._aside_file(digest)
        root = os.path.abspath(self.root)
        path = os.path.normpath(os.path.join(root, reference.removeprefix(self.strip)))
        if os.path.commonpath([root, path]) != root:
            raise RowFault(
                "missing-image",
                f"{_short(reference)} lies outside of the image folder {self.root} (see --images and --strip)",
            )
        return Path(path)

    def find(self, reference: str) -> Path:
        """The file of a reference, which is there: as it is written, with slashes, letters composed or decomposed.

        Raises:
            RowFault: there is no such file, or as `locate`.
        """
        slashes = reference.replace("\\", "/")
        spellings = (reference, slashes, *(unicodedata.normalize(form, slashes) for form in ("NFC", "NFD")))
        try:
            found = next((file for text in dict.fromkeys(spellings) if (file := self.locate(text)).is_file()), None)
        except OSError as error:  # too long for a path
            raise RowFault("missing-image", f"{_short(reference)} is no path: {error.strerror}") from error
        except ValueError as error:
            if isinstance(error, RowFault):
                raise
            raise RowFault("missing-image", f"{_short(reference)} is no path: {error}") from error
        if found is None:
            raise RowFault("missing-image", f"there is no file {_short(reference)} in {self.root}")
        return found

    def load(self, reference: object) -> ImageRecord:
        """Read an image and be sure that it is one.

        Returns:
            `{"bytes", "path"}`: the file as it is, and its name.

        Raises:
            RowFault: there is no such file, or it is no whole image.
        """
        if not isinstance(reference, str) or not reference:
            raise RowFault("missing-image", "no image is given")
        file = self.find(reference)
        data = file.read_bytes()
        try:
            extension = check_image(data, self.decode)
        except ImageError as error:
            raise RowFault("broken-image", f"{_short(reference)} is no whole image: {error}") from error
        return {"bytes": data, "path": f"{file.name}.{extension}" if reference.startswith(EMBEDDED) else file.name}


def _short(reference: str) -> str:
    return repr(reference if len(reference) <= LONGEST_NAMED else reference[:LONGEST_NAMED] + "…")


def check_image(data: bytes, decode: bool = True) -> str:
    """Look whether the bytes of a file are an image.

    Args:
        data: the file.
        decode: decode it, at an eighth of the size where the format (JPEG) allows, which finds truncated files.

    Returns:
        The format's usual file extension, such as "png".

    Raises:
        ImageError: it is no whole image.
    """
    header = image_header(data)
    if decode:
        load_image(data, draft_pixels=max(1, header.width // 8) * max(1, header.height // 8))
    return extension_of(header)
