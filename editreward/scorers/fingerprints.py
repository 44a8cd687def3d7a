"""Fingerprints: texts that differ whenever a scorer's answers may differ."""

import hashlib
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import ProcessorMixin


def fingerprint_of(**settings: object) -> str:
    """A fingerprint made of settings, versions and hashes."""
    return json.dumps(settings, sort_keys=True, ensure_ascii=False)


def content_hash(*parts: bytes | str) -> str:
    """SHA-256 of a sequence of parts, in hexadecimal. Sequences that differ in any part have different hashes."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(f"{type(part).__name__}{len(data)}:".encode())
        digest.update(data)
    return digest.hexdigest()


def weights_hash(model: "torch.nn.Module") -> str:
    """SHA-256 over names, types, shapes and values of a model's weights as they are loaded."""
    import torch

    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)};".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def saved_hash(processor: "ProcessorMixin") -> str:
    """SHA-256 over the files that `save_pretrained` writes."""
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        parts = [(str(path.relative_to(folder)), path.read_bytes()) for path in files]
    return content_hash(*(value for part in parts for value in part))


def code_hash() -> str:
    """SHA-256 over the code that turns images into scores."""
    import configuration_editreward
    import images_editreward
    import modeling_editreward
    import processing_editreward

    modules = (configuration_editreward, images_editreward, modeling_editreward, processing_editreward)
    return content_hash(*(Path(str(module.__file__)).read_bytes() for module in modules))


def versions(*packages: str) -> dict[str, str]:
    """Installed versions of packages."""
    return {package: version(package) for package in packages}
