"""Settings of the Space: the model, and limits for what strangers send. All come from environment variables."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields

PREFIX = "EDITREWARD_SPACE_"
MEGABYTE = 2**20


class InputError(ValueError):
    """Something that a user sent cannot be used; the message says what, and what to do."""


@dataclass(frozen=True)
class Settings:
    """The environment variable of a field is its name in capitals after `EDITREWARD_SPACE_`.

    Attributes:
        model: folder or Hub id, or the spec of another scorer; empty: the bundled tiny model.
        revision: commit, branch or tag of a model on the Hub; empty: its default.
        max_upload_mb: megabytes of one uploaded file.
        max_image_mb: megabytes of one image file.
        max_megapixels: million pixels of one image.
        max_group_megapixels: million pixels of all images of one group.
        max_sources: source images of one group.
        max_candidates: edited images of one group.
        max_instruction: characters of an instruction.
        max_rows: groups of one batch.
        max_batch_mb: megabytes of all images of one batch, unpacked.
        max_batch_megapixels: million pixels of all images of one batch, an image counted each time that it is named.
        request_seconds: how long a request waits for the model.
        batch_seconds: how long one batch may take.
        max_batches: batches that run at the same time.
        max_queue: requests that wait at the same time.
        keep_minutes: how long uploads and downloads are kept.
        max_stored_mb: megabytes of all uploads and downloads that are kept at the same time; no more is taken then.
    """

    model: str = ""
    revision: str = ""
    max_upload_mb: int = 200
    max_image_mb: int = 20
    max_megapixels: int = 40
    max_group_megapixels: int = 160
    max_sources: int = 4
    max_candidates: int = 16
    max_instruction: int = 2000
    max_rows: int = 500
    max_batch_mb: int = 1000
    max_batch_megapixels: int = 4000
    request_seconds: int = 60
    batch_seconds: int = 900
    max_batches: int = 2
    max_queue: int = 32
    keep_minutes: int = 60
    max_stored_mb: int = 4000

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Read the variables that are set.

        Raises:
            ValueError: one that must be a positive number is none; the variable is named.
        """
        values: dict[str, str | int] = {}
        for field in fields(cls):
            name = PREFIX + field.name.upper()
            if not (text := environment.get(name, "").strip()):
                continue
            if field.type in (str, "str"):
                values[field.name] = text
            elif text.isascii() and text.isdigit() and int(text) > 0:
                values[field.name] = int(text)
            else:
                raise ValueError(f"The environment variable {name} must be a positive whole number, not {text!r}.")
        return cls(**values)  # type: ignore[arg-type]
