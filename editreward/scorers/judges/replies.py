"""Answers of endpoints on disk, a small file each, by the hash of all that was sent."""

import json
from collections.abc import Mapping
from pathlib import Path

from editreward.files import write_bytes
from editreward.scorers.fingerprints import content_hash, fingerprint_of
from editreward.scorers.folders import cache_folder

FOLDER = "judge-replies-1"
"""Another form of files takes another number."""


class ReplyStore:
    """Keeps the texts of answers. Processes may share it.

    Args:
        scope: what is not in a request and decides the answer, too: the endpoint and the prompt set.
        folder: where; by default in `cache_folder()`.
    """

    def __init__(self, scope: str, folder: Path | None = None) -> None:
        self.scope = scope
        self.folder = (folder or cache_folder()) / FOLDER

    def key(self, request: Mapping[str, object], draw: str = "") -> str:
        """Hash of the scope and of the request: model, sampling, seed, texts, and images as they are sent.

        Args:
            request: the body of the call.
            draw: which of several samples it asks for, where the body has no seed.
        """
        return content_hash(self.scope, fingerprint_of(**request), draw)

    def get(self, key: str) -> str | None:
        """The text of an answer; None where there is none, or its file is damaged."""
        try:
            text = json.loads(self._path(key).read_text(encoding="utf-8"))["text"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return text if isinstance(text, str) else None

    def put(self, key: str, text: str) -> None:
        """Keep an answer."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, json.dumps({"text": text}).encode(), durable=False)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
