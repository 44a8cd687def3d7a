"""Releases that do not work together are named with the fix, by `editreward env` and where they would fail."""

import json
import re

import pytest
from packaging.requirements import Requirement

from editreward import compatibility
from editreward.cli import command as cli
from editreward.compatibility import BAD_COMBINATIONS, check_versions, known_faults
from editreward.training.adapters import adapter_config, merge_adapter, save_configuration
from tests.helpers.backbones import build

FIX = 'pip install "transformers>=5.23,<5.24"'


@pytest.fixture
def installed(monkeypatch):
    """Pretend that other releases are installed."""
    releases = {"transformers": "5.24.0", "peft": "0.21.2"}
    monkeypatch.setattr(compatibility, "installed_version", releases.get)
    return releases


@pytest.mark.parametrize(
    ("transformers", "peft", "bad"),
    [
        ("5.24.0", "0.21.2", True),
        ("5.25.0rc1", "0.21.2", True),
        ("5.23.0", "0.21.2", False),
        ("5.24.0", "0.22.0", False),
        ("5.24.0", None, False),
    ],
)
def test_only_the_releases_that_fail_together_are_named(transformers, peft, bad, installed):
    installed |= {"transformers": transformers, "peft": peft}
    assert known_faults() == (
        {f"transformers {transformers} and peft {peft}": f"{BAD_COMBINATIONS[0].fault}: {FIX}"} if bad else {}
    )


def test_packages_that_are_not_needed_are_no_fault(installed):
    check_versions("gradio")
    with pytest.raises(ImportError, match="transformers 5.24.0 and peft 0.21.2: .* adapters"):
        check_versions("peft")


@pytest.mark.parametrize("bad", BAD_COMBINATIONS)
def test_the_fix_names_releases_that_are_not_bad(bad):
    (quoted,) = re.findall('"([^"]+)"', bad.fix)
    fixed = Requirement(quoted)
    releases = [f"{major}.{minor}.0" for major in range(8) for minor in range(60)]
    assert any(fixed.specifier.contains(release) for release in releases)
    assert not any(
        fixed.specifier.contains(release) and compatibility.SpecifierSet(bad.releases[fixed.name]).contains(release)
        for release in releases
    )


def test_env_names_the_fix_in_one_line(installed, capsys):
    assert cli.main(["env"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "peft 0.21.2" in line]
    assert FIX in line
    assert cli.main(["env", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["problems"]) == ["transformers 5.24.0 and peft 0.21.2"]
    installed["transformers"] = "5.23.0"
    assert cli.main(["env"]) == 0
    assert "problems" not in capsys.readouterr().out


def test_adapters_say_it_before_they_fail(installed, tmp_path, capsys):
    from trl import ModelConfig

    model, processor = build()
    for call in (
        lambda: adapter_config(model, processor.reward_token_ids, ModelConfig(use_peft=True)),
        lambda: merge_adapter(tmp_path, tmp_path / "merged"),
        lambda: save_configuration(model, tmp_path),
    ):
        with pytest.raises(ImportError, match=re.escape(FIX)):
            call()
    assert adapter_config(model, processor.reward_token_ids, ModelConfig()) is None
    capsys.readouterr()
    assert cli.main(["merge", "--adapter", str(tmp_path), "--output", str(tmp_path / "merged")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("editreward merge: error: transformers 5.24.0") and error.endswith(f"{FIX}\n")


def test_the_environment_of_these_tests_has_no_known_fault():
    assert known_faults() == {}
