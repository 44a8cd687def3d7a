"""Temporary files go away: uploads, downloads, and what Gradio leaves of uploads that were broken off."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr

from editreward_space.quota import BLOCK, Quota


def keep_tidy(blocks: gr.Blocks, minutes: int, quota: Quota) -> None:
    """Delete old files at once and then now and then, as long as the process lives, and measure what is left.

    `Blocks(delete_cache=...)` would know only the files of finished uploads and of answers.
    """

    def run() -> None:
        while True:
            quota.measured(sweep(blocks, 60 * minutes))
            time.sleep(60 * min(minutes, 5))

    threading.Thread(target=run, name="tidy", daemon=True).start()


def sweep(blocks: gr.Blocks, age: float) -> int:
    """Delete files in Gradio's folder for temporary files that are older than `age` seconds; examples stay.

    Returns:
        Bytes of what is left.
    """
    components: list[Any] = list(blocks.blocks.values())
    components += [part for component in components for part in getattr(component, "_components", ())]  # of examples
    kept = {os.path.realpath(path) for component in components for path in getattr(component, "keep_in_cache", ())}
    before = time.time() - age
    left = 0
    for folder, _, names in os.walk(gr.utils.get_upload_folder(), topdown=False):
        for path in (Path(folder, name) for name in names):
            with suppress(FileNotFoundError):  # Gradio moves uploads when they are complete
                found = path.lstat()
                if os.path.realpath(path) not in kept and found.st_ctime < before:
                    path.unlink()
                else:
                    left += max(BLOCK, found.st_size)
        with suppress(OSError):  # not empty, or gone
            if folder != gr.utils.get_upload_folder() and os.stat(folder).st_ctime < before:
                os.rmdir(folder)
    return left
