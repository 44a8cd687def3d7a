"""What an ablation consists of: the config, and the distinct runs that follow from it.

A run is named by a hash of everything that decides its result, so that arms with equal settings share their runs and a
finished run is never repeated, whatever its arm is called.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

PRETRAINING_MODULE = "research.tiny_vlm.train"

# Options of train_trl.py that the runner sets.
OWN_OPTIONS = ("config", "output_dir", "resume_from_checkpoint", "seed")


@dataclass(frozen=True)
class Arm:
    """One variant of a study.

    Attributes:
        label: what to call it in the report.
        options: options of train_trl.py that differ from the recipe's.
        backbone: name of a backbone of the config to start from, in place of the recipe's model.
        head_scale: factor on the untrained heads' means and standard deviations.
        levels: its place in a study with factors, a level of each.
        paper: the paper's numbers for it.
    """

    label: str
    options: dict[str, Any] = field(default_factory=dict)
    backbone: str | None = None
    head_scale: float | None = None
    levels: tuple[str, ...] = ()
    paper: str = ""


@dataclass(frozen=True)
class Study:
    """Arms that are compared with one of them.

    Attributes:
        title: heading of its section.
        base: name of the arm that the others are compared with.
        arms: by name.
        about: what it compares, for the report.
        paper: what the paper's numbers of the arms are.
        factors: names of two factors with two levels each, whose effects are then reported.
        curves: draw the curves of loss and accuracy.
        seeds: in place of the ablation's.
    """

    title: str
    base: str
    arms: dict[str, Arm]
    about: str = ""
    paper: str = ""
    factors: tuple[str, ...] = ()
    curves: bool = False
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """What a trained model is evaluated on.

    Attributes:
        test_set: JSON file of a `editreward.benchmarks.simulated_test_set.TestSet`.
        groups: how many of its groups, the first ones; all if not given.
        validation_groups: simulated groups that the maps onto the scale of the scores are fitted on.
    """

    test_set: str
    groups: int | None = None
    validation_groups: int = 100


@dataclass(frozen=True)
class Backbone:
    """A tiny vision-language model, pre-trained once for all runs that start from it.

    Attributes:
        config: YAML file of research/tiny_vlm.
        options: its options that differ from the file's.
    """

    config: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ablation:
    """A config file.

    Attributes:
        recipe: YAML file of options of train_trl.py, the same for all runs but for what an arm changes.
        seeds: of the new heads and the order of the data.
        folder: where models and logs are written.
        results: JSON Lines file of the finished runs.
        report: Markdown file to write; its figures go into the folder of `results`.
        studies: by name, the most important first.
        evaluation: what every model is evaluated on.
        seed_options: options of train_trl.py that grow with the seed: seed x value is added.
        backbones: by name.
    """

    recipe: str
    seeds: tuple[int, ...]
    folder: str
    results: str
    report: str
    studies: dict[str, Study]
    evaluation: Evaluation
    seed_options: dict[str, int] = field(default_factory=dict)
    backbones: dict[str, Backbone] = field(default_factory=dict)

    def seeds_of(self, study: str) -> tuple[int, ...]:
        return self.studies[study].seeds or self.seeds

    def run_of(self, study: str, arm: str, seed: int) -> "Run":
        """The run of an arm with one seed."""
        chosen = self.studies[study].arms[arm]
        train = {**read_yaml(self.recipe), **chosen.options, "seed": seed}
        for name, step in self.seed_options.items():
            train[name] = train.get(name, 0) + seed * step
        settings: dict[str, Any] = {"train": train, "evaluation": dataclasses.asdict(self.evaluation)}
        if chosen.backbone is not None:
            del train["model_name_or_path"]
            settings["backbone"] = self.pretraining(chosen.backbone)
        if chosen.head_scale is not None:
            settings["head_scale"] = chosen.head_scale
        return Run(settings)

    def pretraining(self, backbone: str) -> dict[str, Any]:
        """All options that a backbone is pre-trained with."""
        chosen = self.backbones[backbone]
        return {**read_yaml(chosen.config), **chosen.options}

    def runs(self, studies: tuple[str, ...] | None = None) -> "dict[Run, list[str]]":
        """The distinct runs of some studies (all by default), in order, each with the arms it belongs to.

        All arms of a study have run with one seed before the next seed's turn comes.
        """
        runs: dict[Run, list[str]] = {}
        for study in studies or tuple(self.studies):
            for seed in self.seeds_of(study):
                for arm in self.studies[study].arms:
                    runs.setdefault(self.run_of(study, arm, seed), []).append(f"{study}/{arm}")
        return runs


@dataclass(frozen=True, eq=False)
class Run:
    """One training with its evaluation.

    Attributes:
        settings: everything that decides its result: `train` (options of train_trl.py), `evaluation`, and where it
            has them `backbone` (options of research/tiny_vlm) and `head_scale`.
    """

    settings: dict[str, Any]

    @property
    def key(self) -> str:
        return content_hash(self.settings)

    @property
    def seed(self) -> int:
        seed: int = self.settings["train"]["seed"]
        return seed

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def content_hash(settings: Mapping[str, Any]) -> str:
    """12 hexadecimal digits that name settings: equal for equal ones, whatever their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def read_ablation(path: str | Path) -> Ablation:
    """Read and check a config.

    Raises:
        ValueError: it has an unknown or a missing key, an option that train_trl.py doesn't know, or names an arm or a
            backbone that isn't there. The message names it.
    """
    content = read_yaml(path)
    studies = content.get("studies")
    if not isinstance(studies, dict) or not studies:
        raise ValueError(f"{path} has no `studies`: map names of studies to their arms.")
    for name, study in studies.items():
        arms = study.get("arms") if isinstance(study, dict) else None
        if not isinstance(arms, dict) or not arms:
            raise ValueError(f"{path}: the study {name!r} has no `arms`.")
        study["arms"] = {arm: _build(Arm, value, f"{path}: {name}/{arm}") for arm, value in arms.items()}
        studies[name] = _build(Study, study, f"{path}: the study {name!r}")
    content["evaluation"] = _build(Evaluation, content.get("evaluation"), f"{path}: `evaluation`")
    backbones = content.get("backbones") or {}
    content["backbones"] = {
        name: _build(Backbone, value, f"{path}: the backbone {name!r}") for name, value in backbones.items()
    }
    ablation = _build(Ablation, content, str(path))
    _check(ablation, str(path))
    return ablation


T = TypeVar("T")


def _build(kind: type[T], values: Any, where: str) -> T:
    """A dataclass from a mapping of a YAML file; lists become tuples."""
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be a mapping, not {values!r}.")
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(values.keys() - fields.keys())
    if unknown:
        raise ValueError(f"{where} has an unknown key {unknown[0]!r}; known are {', '.join(fields)}.")
    missing = [
        name
        for name, f in fields.items()
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{where} has no {missing[0]!r}.")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


def _check(ablation: Ablation, path: str) -> None:
    known = training_options()
    for where, options in _options(ablation):
        for option in options:
            if option in OWN_OPTIONS:
                raise ValueError(f"{path}: {where} sets `{option}`, which the ablation sets for every run.")
            if option not in known:
                raise ValueError(f"{path}: {where} has the option {option!r}, which train_trl.py doesn't know.")
    for name, study in ablation.studies.items():
        if study.base not in study.arms:
            raise ValueError(f"{path}: the base {study.base!r} of the study {name!r} is none of its arms.")
        for arm, chosen in study.arms.items():
            if chosen.backbone is not None and chosen.backbone not in ablation.backbones:
                raise ValueError(f"{path}: {name}/{arm} starts from the unknown backbone {chosen.backbone!r}.")
            if len(chosen.levels) != len(study.factors):
                raise ValueError(f"{path}: {name}/{arm} needs a level of each factor of its study.")
        cells = {chosen.levels for chosen in study.arms.values()}
        if study.factors and (len(study.factors) != 2 or len(cells) != 4 or len(study.arms) != 4):
            raise ValueError(f"{path}: the study {name!r} has factors, so it needs two of them and an arm per cell.")


def _options(ablation: Ablation) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield ablation.recipe, read_yaml(ablation.recipe)
    yield "`seed_options`", ablation.seed_options
    for name, study in ablation.studies.items():
        for arm, chosen in study.arms.items():
            yield f"{name}/{arm}", chosen.options


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file that holds a mapping."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no mapping of options.")
    return content


def training_options() -> set[str]:
    """Names of all options of train_trl.py."""
    # Loaded when it is needed: importing torch and TRL takes seconds.
    from editreward.training.arguments import EditRewardModelConfig, EditRewardTrainingArguments
    from editreward.training.script import EditRewardScriptArguments

    classes = (EditRewardScriptArguments, EditRewardTrainingArguments, EditRewardModelConfig)
    return {f.name for cls in classes for f in dataclasses.fields(cls)}


def rehearsal(ablation: Ablation, folder: str | Path) -> Ablation:
    """The same arms in two steps and with a few groups each, all in `folder`: shows that every arm runs."""
    short = {"max_steps": 2, "logging_steps": 1, "eval_steps": 2, "save_steps": 2, "simulated_eval_groups": 2}
    studies = {
        name: dataclasses.replace(
            study,
            seeds=(),
            arms={
                arm: dataclasses.replace(chosen, options={**chosen.options, **short})
                for arm, chosen in study.arms.items()
            },
        )
        for name, study in ablation.studies.items()
    }
    shortly = {"max_steps": 2, "eval_groups": 2, "tokenizer_groups": 50}
    backbones = {
        name: dataclasses.replace(backbone, options={**backbone.options, **shortly})
        for name, backbone in ablation.backbones.items()
    }
    folder = Path(folder)
    return dataclasses.replace(
        ablation,
        seeds=ablation.seeds[:1],
        studies=studies,
        backbones=backbones,
        evaluation=dataclasses.replace(ablation.evaluation, groups=4, validation_groups=4),
        folder=str(folder / "runs"),
        results=str(folder / "ablations/results.jsonl"),
        report=str(folder / "ablations.md"),
    )
