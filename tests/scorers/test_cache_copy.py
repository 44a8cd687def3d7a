"""A model whose copy in the Hub's cache is not complete, where there is no network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from editreward.scorers.loading import missing_from_cache

FILES = ("config.json", "processor_config.json", "tokenizer.json", "model.safetensors")


def cached(folder: Path, files) -> Path:
    """A cache that holds files of the repository org/m, empty but for those that are given with their content."""
    root = folder / "models--org--m"
    snapshot = root / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("a" * 40)
    for name in files:
        (snapshot / name).write_text(files[name] if isinstance(files, dict) else "")
    return folder


@pytest.mark.parametrize("name", FILES[1:])
def test_the_file_that_is_missing_is_named(name, tmp_path):
    assert missing_from_cache("org/m", cache_dir=cached(tmp_path, [one for one in FILES if one != name])) == [name]


def test_a_complete_copy_and_what_has_no_copy_lack_nothing(tmp_path):
    assert missing_from_cache("org/m", cache_dir=cached(tmp_path, FILES)) == []
    assert missing_from_cache("org/other", cache_dir=tmp_path) == []
    assert missing_from_cache(str(tmp_path), cache_dir=tmp_path) == []


def test_shards_that_are_missing_are_named(tmp_path):
    shards = {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-3.safetensors"}
    files = dict.fromkeys((*FILES[:3], "model-2.safetensors"), "")
    files["model.safetensors.index.json"] = json.dumps({"weight_map": shards})
    found = missing_from_cache("org/m", cache_dir=cached(tmp_path, files))
    assert found == ["model-1.safetensors", "model-3.safetensors"]


@pytest.mark.slow
def test_the_command_blames_the_copy_and_not_the_repository(tmp_path):
    from editreward.scorers.loading import bundled_model

    names = ("config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    files = {name: (bundled_model() / name).read_text(encoding="utf-8") for name in names}
    cached(tmp_path / "hub", files)
    code = "from editreward.scorers.loading import load_model_and_processor; load_model_and_processor('org/m')"
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path),
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1",
    }
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "The copy of org/m in the Hub's cache is not complete: it lacks model.safetensors" in last
    assert "`hf download org/m`" in last
