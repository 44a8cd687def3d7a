"""The columns of published training sets of edits: `--preset NAME` in place of a `--column` for each.

As their cards and their users' code had them on 30 November 2026; only names are kept here, no data. A set whose
columns have changed since says which column is missing, and `--column` names another.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A published training set.

    Attributes:
        dataset: where it is published.
        columns: its columns by field, see `editreward.data.importers.table_edits.NAMES`.
        note: what else one must know to read it.
    """

    dataset: str
    columns: Mapping[str, str]
    note: str = ""


PRESETS: Mapping[str, Preset] = {
    "gpt-image-edit": Preset(
        "UCSC-VLAA/GPT-Image-Edit-1.5M",
        {"instruction": "instruction", "source": "input", "edited": "output", "id": "id", "category": "task"},
        "a JSON list per task; image paths begin in the task's folder, which --images names",
    ),
    "hq-edit": Preset(
        "UCSC-VLAA/HQ-Edit",
        {"instruction": "edit", "source": "input_image", "edited": "output_image"},
        "`input` and `output` are captions; the inverse edits are not read",
    ),
    "imgedit": Preset(
        "sysuyy/ImgEdit",
        {"instruction": "prompt", "source": "input_images", "edited": "output_images"},
        "the Parquet files hold paths into the archives, unpacked under --images; several turns are not read",
    ),
    "magicbrush": Preset(
        "osunlp/MagicBrush",
        {"instruction": "instruction", "source": "source_img", "edited": "target_img"},
    ),
    "omniedit": Preset(
        "TIGER-Lab/OmniEdit-Filtered-1.2M",
        {
            "instruction": "edited_prompt_list",
            "source": "src_img",
            "edited": "edited_img",
            "id": "omni_edit_id",
            "category": "task",
        },
        "of several wordings of an instruction the first is taken",
    ),
    "pico-banana": Preset(
        "apple/pico-banana-400k",
        {
            "instruction": "text",
            "source": "local_input_image",
            "edited": "output_image",
            "category": "edit_type",
        },
        "the sources are URLs, which are not followed: have its script fetch them, which adds `local_input_image`",
    ),
    "sharegpt-4o-image": Preset(
        "FreedomIntelligence/ShareGPT-4o-Image",
        {"instruction": "input_prompt", "source": "input_image", "edited": "output_image"},
        "text_and_image_to_image.json; its archives unpacked under --images",
    ),
    "ultraedit": Preset(
        "BleachNick/UltraEdit",
        {"instruction": "edit_prompt", "source": "source_image", "edited": "edited_image"},
        "of its split FreeForm or RegionBase (--split)",
    ),
}
"""By the value of `--preset`."""


def preset_columns(name: str | None, columns: Mapping[str, str]) -> dict[str, str]:
    """The columns of a preset, and those that are named one by one, which go first.

    Args:
        name: of the preset; None: there is none.
        columns: by field.

    Raises:
        ValueError: there is no such preset.
    """
    if name is None:
        return dict(columns)
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}, only: {', '.join(PRESETS)}.")
    return {**PRESETS[name].columns, **columns}
