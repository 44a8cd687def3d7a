"""The card of a published dataset: `dataset_card/template.md`, filled in from statistics, rubric and fields."""

import os
import re
from typing import Annotated, TypeAlias

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import StringConstraints

from editreward.groups.protocol import DEFAULT_PROTOCOL, RubricDimension, read_protocol
from editreward.publishing.stats import DatasetStatistics
from editreward.publishing.stats_report import as_markdown
from editreward.resources import resource
from editreward.validation import read_yaml

Fields: TypeAlias = dict[str, Annotated[str, StringConstraints(strip_whitespace=True)]]
"""Texts of the card by name."""

UNKNOWN_LICENCE = "unknown"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def read_fields(path: str | os.PathLike[str] | None = None) -> dict[str, str]:
    """The texts of the card: those of a YAML file, and for entries that it leaves out those of `fields.yaml`.

    Raises:
        ValueError: an entry is unknown or not a text.
    """
    fields = read_yaml(resource("dataset_card/fields.yaml"), Fields)
    if path is None:
        return fields
    given = read_yaml(path, Fields)
    unknown = ", ".join(sorted(given.keys() - fields.keys()))
    if unknown:
        raise ValueError(f"{path}: unknown {unknown}. The entries are: {', '.join(fields)}.")
    return fields | given


def read_rubric(dimensions: list[str], path: str | os.PathLike[str] | None = None) -> list[RubricDimension]:
    """The rubric of the dimensions, from a protocol as `editreward annotate serve` takes it.

    Args:
        dimensions: what candidates are scored on.
        path: the protocol. By default the package's own, which tells nothing of dimensions that it hasn't.

    Raises:
        ValueError: the protocol given lacks a dimension.
    """
    rubric = {dimension.name: dimension for dimension in read_protocol(path or DEFAULT_PROTOCOL).dimensions}
    missing = [name for name in dimensions if name not in rubric]
    if missing and path is not None:
        raise ValueError(f"{path} has no rubric for {', '.join(missing)}, which the dataset is scored on.")
    return [rubric[name] for name in dimensions if name in rubric]


def build_card(
    statistics: DatasetStatistics,
    repo_id: str,
    licence: str = UNKNOWN_LICENCE,
    fields: dict[str, str] | None = None,
    rubric: list[RubricDimension] | None = None,
    splitting: str = "",
) -> str:
    """The card, Markdown with a YAML front matter.

    Args:
        statistics: of all splits.
        repo_id: where the dataset will be on the Hub.
        licence: the Hub's identifier of a licence, such as "cc-by-4.0".
        fields: texts as `read_fields` gives them.
        rubric: what scores mean, as `read_rubric` gives it.
        splitting: one sentence or two that say how the splits were made.
    """
    fields = read_fields() if fields is None else fields
    name = repo_id.split("/")[-1]
    splits = list(statistics.splits)
    front_matter: dict[str, object] = {
        "pretty_name": name,
        "license": licence,
        "language": [code for code in statistics.languages if re.fullmatch("[a-z]{2,3}", code)],
        "task_categories": ["image-to-image"],
        "tags": ["image-editing", "reward-model", "preference", "editreward"],
        "size_categories": [next((size for end, size in SIZES if statistics.groups < end), "1M<n<10M")],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits],
            }
        ],
    }
    if licence == UNKNOWN_LICENCE:
        told = "The authors have not stated a licence for the scores and edits: ask them before you use them."
    else:
        told = f"What is new here, scores and annotations, has the licence `{licence}`."
    environment = Environment(
        loader=FileSystemLoader(resource("dataset_card")),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template("template.md").render(
        front_matter=yaml.safe_dump({k: v for k, v in front_matter.items() if v}, sort_keys=False, allow_unicode=True),
        name=name,
        repo_id=repo_id,
        splits=splits,
        dimensions=statistics.dimensions,
        rubric=rubric if rubric is not None else read_rubric(statistics.dimensions),
        statistics=statistics,
        tables=as_markdown(statistics),
        annotation=fields["annotation" if statistics.annotators else "annotation_unrecorded"],
        splitting=splitting,
        licence=told,
        fields=fields,
    )
