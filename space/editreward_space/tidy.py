"""Temporary files go away: uploads, downloads, and what Gradio leaves of uploads that were broken off."""

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr


def keep_tidy(blocks: gr.Blocks, minutes: int) -> None:
    """Delete old files now and then, as long as the process lives.

    `Blocks(delete_cache=...)` would know only the files of finished uploads and of answers.
    """

    def run() -> None:
        while True:
            time.sleep(60 * min(minutes, 5))
            sweep(blocks, 60 * minutes)

    threading.Thread(target=run, name="tidy", daemon=True).start()


def sweep(blocks: gr.Blocks, age: float) -> None:
    """Delete files in Gradio's folder for temporary files that are older than `age` seconds; examples stay."""
    components: list[Any] = list(blocks.blocks.values())
    kept = {os.path.realpath(path) for component in components for path in getattr(component, "keep_in_cache", ())}
    before = time.time() - age
    for folder, _, names in os.walk(gr.utils.get_upload_folder(), topdown=False):
        for path in (Path(folder, name) for name in names):
            with suppress(FileNotFoundError):  # Gradio moves uploads when they are complete
                if os.path.realpath(path) not in kept and path.lstat().st_ctime < before:
                    path.unlink()
        with suppress(OSError):  # not empty, or gone
            if folder != gr.utils.get_upload_folder() and os.stat(folder).st_ctime < before:
                os.rmdir(folder)
