"""Checkpoints that are whole or not there.

A checkpoint is written into `<output_dir>/_incomplete/`, where nothing takes it for a checkpoint, flushed to disk and
then renamed. A kill at any time leaves the last whole one, and at most a folder in there.
"""

import logging
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

from editreward.dense_heads import HEADS_FILE
from editreward.files import flush, flush_names

logger = logging.getLogger(__name__)

# Pushes to the Hub leave out what begins with an underscore.
INCOMPLETE = "_incomplete"

# Without these files a folder does not load: they leave first and come last.
MODEL_CONFIGS = ("config.json", "adapter_config.json")
MODEL_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", HEADS_FILE)


def checkpoint_to_resume(output_dir: str | Path, resume_from_checkpoint: str | bool | None) -> str | None:
    """The checkpoint that `--resume_from_checkpoint` means, `None` to start at the first step.

    Args:
        output_dir: Folder of the run.
        resume_from_checkpoint: A checkpoint's folder, or true for the last whole one in `output_dir`. If there is
            none yet, the run starts from the beginning, with a warning. Left-overs of killed saves are named in a
            warning.

    Raises:
        ValueError: If the folder that is given is not a whole checkpoint.
    """
    wanted = str(resume_from_checkpoint).lower()
    if wanted in ("none", "false"):
        return None
    if wanted != "true":
        path = Path(str(resume_from_checkpoint))
        if not (path / TRAINER_STATE_NAME).is_file() or path.resolve().parent.name == INCOMPLETE:
            raise ValueError(
                f"{path} is not a whole checkpoint to resume from. Name another, or give `--resume_from_checkpoint "
                "true` for the last whole one of the output folder."
            )
        return str(path)
    output_dir = Path(output_dir)
    incomplete = sorted((output_dir / INCOMPLETE).glob("*"))
    numbered = []
    for path in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", path.name)
        if step and path.is_dir():
            # Other tools write in place, this file last.
            whole = (path / TRAINER_STATE_NAME).is_file()
            numbered += [(int(step[1]), path)] if whole else []
            incomplete += [] if whole else [path]
    if incomplete:
        logger.warning(
            "Not resuming from %s: the run was stopped while it saved there.", ", ".join(map(str, incomplete))
        )
    if not numbered:
        logger.warning("No checkpoint in %s yet: starting from the beginning.", output_dir)
        return None
    return str(max(numbered)[1])


def complete_checkpoint(incomplete: Path, checkpoint: Path, ranks: Iterable[int]) -> None:
    """Give a checkpoint that all ranks have written its name, or raise if a rank's part is missing.

    Args:
        incomplete: The folder that was written, beneath `_incomplete`.
        checkpoint: What it becomes; a checkpoint of that name is replaced.
        ranks: Ranks whose random states it must hold, none to ask for none.
    """
    missing = [rank for rank in ranks if not (incomplete / f"rng_state_{rank}.pth").is_file()]
    if missing:
        raise RuntimeError(
            f"{incomplete} lacks the random state of rank {', '.join(map(str, missing))}. `--output_dir` must be on "
            "storage that all machines share; or give `--save_on_each_node`."
        )
    flush(incomplete)
    if checkpoint.exists():
        checkpoint.rename(incomplete.parent / f"replaced-{checkpoint.name}")
    incomplete.rename(checkpoint)
    flush_names(checkpoint.parent)
    shutil.rmtree(incomplete.parent)


def complete_model(incomplete: Path, folder: Path) -> None:
    """Move a model that was written beneath `_incomplete` into `folder`, in place of any model there.

    Its configuration comes last: until then the folder does not load.
    """
    flush(incomplete)
    for pattern in (*MODEL_CONFIGS, *MODEL_WEIGHTS):
        for path in folder.glob(pattern):
            path.unlink()
    flush_names(folder)
    for path in sorted(incomplete.iterdir(), key=lambda path: path.name in MODEL_CONFIGS):
        if path.is_dir():
            shutil.rmtree(folder / path.name, ignore_errors=True)
        path.replace(folder / path.name)
    flush_names(folder)
    shutil.rmtree(incomplete.parent)


def rotate_checkpoints(output_dir: Path, limit: int | None, newest: Path, best: str | None) -> None:
    """Delete the oldest checkpoints beyond `limit`, but neither the `newest` nor the `best`, after both are whole."""
    if not limit or limit < 1:
        return
    kept = {newest, Path(best)} if best else {newest}
    checkpoints = [Path(path) for path in sort_checkpoints(str(output_dir), use_mtime=True)]
    surplus = max(0, len(checkpoints) - max(limit, len(kept)))
    for checkpoint in [path for path in checkpoints if path not in kept][:surplus]:
        # Out of sight first: half of a deleted checkpoint must not look like a whole one.
        (output_dir / INCOMPLETE).mkdir(exist_ok=True)
        checkpoint.rename(output_dir / INCOMPLETE / f"deleted-{checkpoint.name}")
    shutil.rmtree(output_dir / INCOMPLETE, ignore_errors=True)
