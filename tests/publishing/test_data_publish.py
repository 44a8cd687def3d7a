"""Publishing: what is written loads, leaks nothing and says what it is; what is pushed comes back the same."""

import dataclasses
import hashlib
import io
import itertools
import json
import os
from pathlib import Path

import pytest
import yaml
from datasets import load_dataset
from PIL import Image

from editreward.cli import command as cli
from editreward.data.images import perceptual_hash, read_image
from editreward.data.sources import load_groups, raw_groups, split_names
from editreward.data.storage import write_groups
from editreward.publishing import datasets as publishing
from editreward.publishing.card import build_card, read_fields, read_rubric
from editreward.publishing.datasets import PublishOptions, pseudonyms
from editreward.publishing.stats import DatasetStatistics, dataset_statistics
from editreward.simulation import simulate_groups
from tests.helpers.hub_server import Hub, run_with_hub

REPO = "org/EditReward-Data"


def encoded(image: Image.Image, form: str = "PNG") -> dict:
    file = io.BytesIO()
    image.save(file, form)
    return {"bytes": file.getvalue(), "path": None}


def make_groups(n: int = 24) -> list[dict]:
    """Groups without a fault; three in a row share a source image: exactly, and as a compressed copy."""
    groups = []
    sources = [group.source for group in simulate_groups(-(-n // 3), size=84, candidates=1)]
    for number in range(n):
        source = sources[number // 3]
        candidates = [Image.new("RGB", (20, 20), (number, 100 * index, 7)) for index in range(2)]
        groups.append(
            {
                "group_id": f"g{number}",
                "origin": "made",
                "category": "recolour",
                "instruction": f"Nr. {number}: 变蓝",
                "language": "zh",
                "source_images": [encoded(source, "JPEG" if number % 3 == 2 else "PNG")],
                "candidates": [
                    {
                        "image": encoded(image),
                        "editor": "e",
                        "seed": index,
                        "scores": {"instruction_following": 1.0 + index, "visual_quality": 2.5},
                        "annotations": [
                            {"annotator": name, "instruction_following": 1.0 + index, "visual_quality": score}
                            for name, score in (("Ann Smith", 2.0), ("annotator-4", 3.0))
                        ],
                        "rationale": None,
                    }
                    for index, image in enumerate(candidates)
                ],
                "preferences": [{"chosen": 1, "rejected": 0, "weight": 1.0}],
            }
        )
    return groups


def renamed(group: dict) -> dict:
    """The group with pseudonyms."""
    return json.loads(json.dumps(comparable(group)).replace("Ann Smith", "annotator-5"))


def comparable(group: dict) -> dict:
    """The group with digests for images."""

    def digest(record: dict) -> str:
        return hashlib.sha256(record["bytes"]).hexdigest()

    return {
        **group,
        "source_images": [digest(record) for record in group["source_images"]],
        "candidates": [{**c, "image": digest(c["image"])} for c in group["candidates"]],
    }


def publish(*arguments: object) -> int:
    return cli.main(["data", "publish", *map(str, arguments), "--repo-id", REPO])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    write_groups(make_groups(), folder)
    return folder


@pytest.fixture(scope="module")
def published(dataset, tmp_path_factory) -> Path:
    """A dry run with three splits."""
    folder = tmp_path_factory.mktemp("dry") / "new" / "run"
    splits = ("--splits", "train=0.5", "validation=0.25", "test=0.25")
    assert publish(dataset, "--dry-run", folder, "--license", "cc-by-4.0", "--shard-megabytes", 0.001, *splits) == 0
    return folder


def test_the_dry_run_loads_with_every_row_once_and_unchanged(published):
    loaded = load_dataset(str(published))
    assert list(loaded) == ["train", "validation", "test"]
    found = {}
    for split, rows in loaded.items():
        for group in raw_groups(rows):
            assert group["group_id"] not in found
            found[group["group_id"]] = comparable(group), split
    expected = {group["group_id"]: renamed(group) for group in make_groups()}
    assert {name: group for name, (group, _) in found.items()} == expected
    assert loaded["train"][0]["source_images"][0].size == (84, 84)


def test_no_source_image_and_no_near_copy_is_in_two_splits(published):
    hashes = [
        (split, perceptual_hash(read_image(record)))
        for split in split_names(published)
        for group in raw_groups(load_groups(published, split))
        for record in group["source_images"]
    ]
    near = [
        (one, other)
        for (one, a), (other, b) in itertools.combinations(hashes, 2)
        if (a ^ b).bit_count() <= publishing.NEAR_BITS
    ]
    assert len(near) >= 24, "three groups share each source"
    assert all(one == other for one, other in near)


def test_what_is_published_has_a_card_with_valid_metadata_and_a_figure(published):
    names = {str(path.relative_to(published)) for path in published.rglob("*") if path.is_file()}
    shards = {name for name in names if name.endswith(".parquet")}
    assert names - shards == {"README.md", "statistics.png", "statistics.json"} and len(shards) >= 3
    text = (published / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["license"] == "cc-by-4.0" and metadata["language"] == ["zh"]
    assert metadata["size_categories"] == ["n<1K"] and metadata["pretty_name"] == "EditReward-Data"
    assert [entry["split"] for entry in metadata["configs"][0]["data_files"]] == ["train", "validation", "test"]
    statistics = json.loads((published / "statistics.json").read_text())
    for split, count in statistics["splits"].items():
        assert f"| `{split}` | {count} |" in body
    assert sum(statistics["splits"].values()) == 24 == statistics["groups"]
    assert f'load_dataset("{REPO}", split="train")' in body and "](statistics.png)" in body
    assert "| 4 | Everything asked is there" in body and "Krippendorff" in body and "`cc-by-4.0`" in body
    assert "{{" not in text and "{%" not in text and "Ann Smith" not in text
    with Image.open(published / "statistics.png") as figure:
        assert figure.width > 1500


def test_publishing_is_deterministic(dataset, published, tmp_path):
    splits = ("--splits", "train=0.5", "validation=0.25", "test=0.25")
    again = tmp_path / "again"
    assert publish(dataset, "--dry-run", again, "--license", "cc-by-4.0", "--shard-megabytes", 0.001, *splits) == 0
    files = sorted(path.relative_to(published) for path in published.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    for file in files:
        assert (published / file).read_bytes() == (again / file).read_bytes(), file


def test_one_split_is_divided_by_default_and_several_are_kept(dataset, tmp_path, capsys):
    write_groups(make_groups(24)[:12], tmp_path / "two", "train")
    write_groups(make_groups(24)[12:], tmp_path / "two", "bench")
    assert publish(tmp_path / "two", "--dry-run", tmp_path / "kept", "--keep-names") == 0
    out = capsys.readouterr().out
    assert "bench 12" in out and "train 12" in out and "states no licence" in out and "--fields" in out
    assert "Nothing was pushed" in out
    names = {a["annotator"] for g in load_groups(tmp_path / "kept") for c in g["candidates"] for a in c["annotations"]}
    assert names == {"Ann Smith", "annotator-4"}
    assert "splits are those of the dataset" in (tmp_path / "kept" / "README.md").read_text()
    planned, fractions = publishing.plan_splits(publishing.survey({"train": make_groups(150)}), PublishOptions(REPO))
    assert fractions == publishing.DEFAULT_FRACTIONS and set(planned) == set(fractions)
    assert publish(dataset, "--dry-run", tmp_path / "few", "--splits", "train=0.999", "test=0.001") == 2
    assert "split 'test' would be empty" in capsys.readouterr().err


def test_splits_that_share_a_source_are_refused(tmp_path, capsys):
    write_groups(make_groups(5), tmp_path / "leaky", "train")
    write_groups(make_groups(6)[5:], tmp_path / "leaky", "test")  # the compressed copy of g3's and g4's source
    assert publish(tmp_path / "leaky", "--dry-run", tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert "source image is in two splits: group 'g" in err and "--splits" in err
    assert not (tmp_path / "out").exists()


def test_faults_stop_it_unless_they_are_allowed(tmp_path, capsys):
    groups = make_groups(6)
    groups[2]["candidates"][1]["image"] = groups[2]["candidates"][0]["image"]
    write_groups(groups, tmp_path / "faulty")
    arguments = (tmp_path / "faulty", "--dry-run", tmp_path / "out", "--splits", "train=1")
    assert publish(*arguments) == 2
    assert "faults (identical_candidates 1); the first: g2 (train, row 2)" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["faulty"]
    assert publish(*arguments, "--allow", "identical_candidates") == 0
    assert split_names(tmp_path / "out") == ["train"]
    assert publish(*arguments, "--allow", "broken_image") == 2
    assert "'broken_image' is no fault that can be allowed" in capsys.readouterr().err


def test_a_run_that_fails_leaves_nothing(dataset, tmp_path, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise OSError("no space left")

    monkeypatch.setattr(publishing, "draw", fail)
    assert publish(dataset, "--dry-run", tmp_path / "out", "--splits", "train=1") == 2
    assert "no space left" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--splits", "train"], "--splits takes NAME=FRACTION, such as train=0.9, not 'train'"),
        (["--splits", "a=0.5", "a=0.5"], "names 'a' twice"),
        (["--splits", "a=0.5", "b=0.6"], "must be positive and sum to 1, unlike a=0.5, b=0.6"),
        (["--fields", "nowhere.yaml"], "nowhere.yaml"),
        (["--protocol", "nowhere.yaml", "--splits", "train=1"], "nowhere.yaml"),
        (["--shard-megabytes", "0"], "--shard-megabytes must be positive"),
        (["--repo-id", "a/b/c"], "'a/b/c' is no id of a Hub repository"),
        (["--dry-run", "FULL", "--splits", "train=1"], "is there and not empty"),
    ],
)
def test_bad_options_are_one_line_errors(dataset, arguments, message, tmp_path, capsys):
    arguments = [argument.replace("FULL", str(dataset)) for argument in arguments]
    command = ["data", "publish", str(dataset), "--repo-id", REPO, "--dry-run", str(tmp_path / "out"), *arguments]
    assert cli.main(command) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and message in err
    assert not (tmp_path / "out").exists()


def test_names_that_are_pseudonyms_stay_and_others_get_free_numbers():
    assert pseudonyms(["Bo", "annotator-2", "annotator-x"]) == {
        "Bo": "annotator-3",
        "annotator-2": "annotator-2",
        "annotator-x": "annotator-4",
    }


def statistics_of(dimensions=("instruction_following",), **values) -> DatasetStatistics:
    """Statistics of no groups but for the values given."""
    of_nothing = dataset_statistics({}, dimensions)
    return dataclasses.replace(of_nothing, **{"splits": {"train": 5000}, "languages": {"en": 1}, **values})


def test_the_card_takes_the_fields_given_and_refuses_others(tmp_path):
    (tmp_path / "fields.yaml").write_text("summary: Photos of cats.\ncontact: cats@example.org\n")
    fields = read_fields(tmp_path / "fields.yaml")
    text = build_card(statistics_of(), REPO, fields=fields)
    assert "Photos of cats." in text and "write to cats@example.org" in text and "2509.26346" in text
    assert "1K<n<10K" in text and "have not stated a licence" in text and "records no annotators" in text
    assert "an annotator sees the source" in build_card(statistics_of(annotators=3), REPO)
    (tmp_path / "fields.yaml").write_text("sumary: x\n")
    with pytest.raises(ValueError, match="unknown sumary. The entries are: summary, "):
        read_fields(tmp_path / "fields.yaml")
    for wrong in ("- a\n", "summary: 3\n", "summary: [\n"):
        (tmp_path / "fields.yaml").write_text(wrong)
        with pytest.raises(ValueError, match=r"fields\.yaml"):
            read_fields(tmp_path / "fields.yaml")


def test_the_rubric_is_that_of_the_dimensions(tmp_path):
    assert [dimension.name for dimension in read_rubric(["visual_quality", "consistency"])] == ["visual_quality"]
    (tmp_path / "protocol.yaml").write_text(
        "title: t\nskip_reasons: [r]\ndimensions:\n- {name: consistency, title: T, question: 'Q?', "
        "levels: {1: w, 2: x, 3: y, 4: 'z | z'}}\n"
    )
    rubric = read_rubric(["consistency"], tmp_path / "protocol.yaml")
    text = build_card(statistics_of(dimensions=["consistency"]), REPO, rubric=rubric)
    assert "**T** (`consistency`). Q?" in text and "| 4 | z \\| z |\n| 3 | y |\n| 2 | x |\n| 1 | w |\n" in text
    with pytest.raises(ValueError, match="no rubric for visual_quality"):
        read_rubric(["visual_quality"], tmp_path / "protocol.yaml")


# For `run_with_hub`. Arguments: first and second dataset.
PUSH = """
import hashlib, json, sys
from datasets import load_dataset
from editreward.cli import command as cli
from editreward.data.sources import raw_groups

repo, first, second = sys.argv[1:]

def publish(folder, *options):
    return cli.main(["data", "publish", folder, "--repo-id", repo, "--shard-megabytes", "0.001", *options])

def digest(record):
    return hashlib.sha256(record["bytes"]).hexdigest()

def rows(streaming):
    found = {}
    for split, dataset in load_dataset(repo, streaming=streaming).items():
        found[split] = list(raw_groups(dataset))
        for group in found[split]:
            group["source_images"] = [digest(record) for record in group["source_images"]]
            for candidate in group["candidates"]:
                candidate["image"] = digest(candidate["image"])
    return found

result = {"statuses": [publish(first, "--splits", "train=0.5", "test=0.5", "--private")]}
result["downloaded"], result["streamed"] = rows(False), rows(True)
result["statuses"].append(publish(second, "--splits", "train=1"))
result["second"] = rows(True)
result["checked"] = cli.main(["data", "check", repo])
print("RESULT" + json.dumps(result))
"""


@pytest.fixture(scope="module")
def pushed(dataset, tmp_path_factory):
    """Two pushes to one repository, and what loading gave after each."""
    folder = tmp_path_factory.mktemp("pushed")
    write_groups(make_groups(3), folder / "second")
    with Hub() as hub:
        result = run_with_hub(hub, folder, PUSH, REPO, dataset, folder / "second")
        assert result.returncode == 0, result.stdout + result.stderr
        yield hub, json.loads(result.stdout.split("RESULT")[1]), result.stdout


@pytest.mark.slow
def test_what_was_pushed_is_loaded_from_the_hub_the_same(pushed):
    hub, result, out = pushed
    assert result["statuses"] == [0, 0] and result["checked"] == 0
    expected = {group["group_id"]: renamed(group) for group in make_groups()}
    for rows in (result["downloaded"], result["streamed"]):
        assert set(rows) == {"train", "test"} and all(rows.values())
        groups = [group for split in rows.values() for group in split]
        assert len(groups) == 24 and {group["group_id"]: group for group in groups} == expected
    assert f"Pushed {hub.endpoint}/datasets/{REPO} as {hub.endpoint}/datasets/{REPO}/commit/" in out
    assert hub.repositories[REPO].private


@pytest.mark.slow
def test_parquet_went_the_lfs_way_in_one_commit_and_was_read_back_from_there(pushed):
    hub, _, _ = pushed
    assert len(hub.repositories[REPO].commits) == 3, "the initial one and one for each push"
    _, files = hub.repositories[REPO].commits[1]
    shards = [name for name in files if name.endswith(".parquet")]
    assert len(shards) >= 3 and all(files[name].lfs for name in shards)
    assert not files["README.md"].lfs and files["statistics.png"].lfs
    assert f"POST /datasets/{REPO}.git/info/lfs/objects/batch" in hub.log
    for name in shards:
        assert f"PUT /storage/{files[name].sha256}" in hub.log and f"GET /storage/{files[name].sha256}" in hub.log


@pytest.mark.slow
def test_a_second_push_replaces_the_shards_of_the_first(pushed):
    hub, result, _ = pushed
    expected = {group["group_id"]: renamed(group) for group in make_groups(3)}
    assert {group["group_id"]: group for group in result["second"]["train"]} == expected
    assert set(result["second"]) == {"train"}
    _, files = hub.repositories[REPO].commits[-1]
    assert not [name for name in files if name.startswith("data/test")]


@pytest.mark.slow
def test_a_wrong_token_is_an_error_before_anything_is_written(dataset, tmp_path):
    code = "import sys; from editreward.cli.command import main; sys.exit(main(sys.argv[1:]))"
    with Hub() as hub:
        arguments = ["data", "publish", dataset, "--repo-id", REPO, "--splits", "train=1"]
        result = run_with_hub(hub, tmp_path, code, *arguments, token="hf_wrong")
        assert result.returncode == 2 and "401" in result.stderr and len(result.stderr.splitlines()) == 1
        assert hub.repositories == {} and hub.objects == {}
