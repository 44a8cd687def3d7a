"""Configuration of an EditReward model: a vision-language backbone with Gaussian reward heads."""

import os
import re
from typing import TYPE_CHECKING, Any, TypedDict

from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

if TYPE_CHECKING:
    # `custom_pipelines` names it. transformers saves and downloads the files that a file imports.
    from .pipeline_editreward import EditRewardPipeline  # noqa: F401

DEFAULT_DIMENSIONS = ["instruction_following", "visual_quality"]
BACKBONES = ("qwen2_5_vl", "qwen3_vl")
HEAD_TYPES = ("multi", "shared", "single")
AGGREGATIONS = ("mean", "min", "sum", "smooth_min")
UNCERTAINTY_AGGREGATIONS = ("propagate", "reference")
LAYOUTS = ("compact", "paper")
POSITION_SCHEMES = ("mrope", "sequential")
PREFERENCE_LINKS = ("logistic", "probit")
MAX_HEAD_WIDTH = 2**16
LARGEST_NUMBER = 1e300

# What the calibration of a dimension must hold, and what it may.
CALIBRATION_FIELDS = ("intercept", "slope")
STD_FIELDS = ("std_factor", "groups", "coverage_50", "coverage_80", "coverage_95", "std_correlation")

# Arguments of `from_pretrained` that say where a repository is, not how to load it.
HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def load_tokenizer(name_or_path: str | os.PathLike[str], **kwargs: object) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or repository, without running code of theirs and without asking whether to.

    Raises:
        ValueError: If the tokenizer's class is code in the repository.
    """
    try:
        return AutoTokenizer.from_pretrained(name_or_path, **{"trust_remote_code": False, **kwargs})
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"The tokenizer of {name_or_path} is code of its own (`auto_map` in tokenizer_config.json), which is not "
            "run. Save it with a class of transformers."
        ) from error


def is_number(value: object) -> bool:
    """Whether a value is a finite number: neither text nor a truth value, NaN or infinity."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER


def check_choice(field: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise a `ValueError` that names the field and its choices unless `value` is one of them."""
    if value not in choices:
        raise ValueError(f"`{field}` is {value!r}; choose one of: {', '.join(choices)}.")


def check_dimensions(dimensions: list[str]) -> None:
    """Raise a `ValueError` unless `dimensions` is a non-empty list of distinct lower-case identifiers."""
    if not isinstance(dimensions, (list, tuple)) or not dimensions:
        raise ValueError(f"`dimensions` must be a non-empty list of names, got {dimensions!r}.")
    for name in dimensions:
        if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise ValueError(
                f"`dimensions` holds {name!r}; a dimension's name is made of lower-case letters, digits and '_', "
                "such as 'visual_quality'."
            )
    if len(set(dimensions)) != len(dimensions):
        raise ValueError(f"`dimensions` names a dimension twice: {dimensions}.")


def reward_tokens(layout: str, dimensions: list[str]) -> list[str]:
    """Special tokens whose hidden states the heads read, one per dimension.

    The paper layout has a prompt per dimension, so that all share one token; the compact layout has one prompt with a
    token per dimension.
    """
    if layout == "paper":
        return ["<|Reward|>"] * len(dimensions)
    return [f"<|Reward_{name}|>" for name in dimensions]


class ScoreFields(TypedDict):
    """A score, and whether its mean and its standard deviation were fitted to people's ratings."""

    mean: float
    std: float
    calibrated: bool
    std_calibrated: bool


def calibrated_score(line: dict[str, float] | None, mean: float, std: float) -> ScoreFields:
    """A score by a calibration: `mean`, `std`, and whether either is `calibrated` and `std_calibrated`."""
    scale = line or {"intercept": 0.0, "slope": 1.0}
    return {
        "mean": scale["intercept"] + scale["slope"] * mean,
        "std": scale["slope"] * scale.get("std_factor", 1.0) * std,
        "calibrated": line is not None,
        "std_calibrated": "std_factor" in scale,
    }


class EditRewardConfig(PreTrainedConfig):
    r"""
    Configuration of an [`EditRewardModel`].

    Args:
        backbone_config (`PreTrainedConfig` or `dict`):
            Configuration of the vision-language backbone: `qwen2_5_vl` (MiMo-VL too) or `qwen3_vl`.
        dimensions (`list[str]`, defaults to instruction following and visual quality):
            What is judged, by name and in the order of the output's columns. `["overall"]` for `head_type="single"`.
        head_type (`str`, defaults to `"multi"`):
            `multi`: an MLP per dimension; `shared`: one MLP for all dimensions; `single`: one overall score.
        head_hidden_sizes (`list[int]`, defaults to `[1024, 16]`):
            Widths of the MLP's two hidden layers.
        head_dropout (`float`, defaults to 0.05):
            Dropout after the first hidden layer, in training.
        aggregation (`str`, defaults to `"mean"`):
            How the dimensions' means become one reward (eq. 3 of arXiv 2509.26346): `mean`, `min` or `sum`; or
            `smooth_min`, in between `min` and `mean`, which one very low dimension pulls down and which trains all.
        aggregation_temperature (`float`, defaults to 1.0):
            Of `smooth_min`, in units of the reward: near `min` if small, near `mean` if large.
        uncertainty_aggregation (`str`, defaults to `"propagate"`):
            `propagate` treats the dimensions as independent Gaussians; `reference` does what the published code does
            (which has no `smooth_min`).
        layout (`str`, defaults to `"compact"`):
            How a group becomes tokens: `compact` (one short prompt) or `paper` (a prompt per candidate and dimension).
            Scores are comparable within a layout only.
        position_scheme (`str`, defaults to `"mrope"`):
            `mrope`: the backbone's image-grid positions; `sequential`: one-dimensional positions, as the published
            weights were trained.
        preference_link (`str`, defaults to `"logistic"`):
            Link between score differences and preference probabilities that the model was trained with: `logistic` or
            `probit`.
        calibration (`dict`, *optional*):
            Per dimension an increasing affine map of the mean onto the 1..4 scale of the annotation rubric:
            `{"visual_quality": {"intercept": 2.5, "slope": 0.7}, ...}`; under `overall` that of the reward, beside
            them. `std_factor` multiplies standard deviations beyond the slope; without it they are not calibrated.
            With it stand the number of `groups` that it was fitted on and what was measured on held-out ones:
            `coverage_50`, `coverage_80`, `coverage_95` and `std_correlation`. `None`: uncalibrated.
    """

    model_type = "editreward"
    sub_configs = {"backbone_config": AutoConfig}

    backbone_config: Any = None
    dimensions: Any = None
    head_type: str = "multi"
    head_hidden_sizes: list[int] | tuple[int, ...] = (1024, 16)
    head_dropout: float = 0.05
    aggregation: str = "mean"
    aggregation_temperature: float = 1.0
    uncertainty_aggregation: str = "propagate"
    layout: str = "compact"
    position_scheme: str = "mrope"
    preference_link: str = "logistic"
    calibration: dict[str, dict[str, float]] | None = None

    def __post_init__(self, **kwargs: object) -> None:
        if self.backbone_config is None:
            # transformers builds default configurations, to save only what differs from them.
            self.backbone_config = AutoConfig.for_model("qwen2_5_vl")
        elif isinstance(self.backbone_config, dict):
            backbone_config = dict(self.backbone_config)
            if "model_type" not in backbone_config:
                raise ValueError(f"`backbone_config` names no `model_type`; it is one of {', '.join(BACKBONES)}.")
            model_type = backbone_config.pop("model_type")
            self.backbone_config = AutoConfig.for_model(model_type, **backbone_config)
        default_dimensions = ["overall"] if self.head_type == "single" else DEFAULT_DIMENSIONS
        self.dimensions = default_dimensions if self.dimensions is None else self.dimensions
        check_dimensions(self.dimensions)
        self.dimensions = list(self.dimensions)
        if isinstance(self.head_hidden_sizes, tuple):
            self.head_hidden_sizes = list(self.head_hidden_sizes)
        kwargs.setdefault("num_labels", 1)
        super().__post_init__(**kwargs)
        self._check()

    def _check(self) -> None:
        check_choice("backbone_config.model_type", self.backbone_config.model_type, BACKBONES)
        check_choice("head_type", self.head_type, HEAD_TYPES)
        check_choice("aggregation", self.aggregation, AGGREGATIONS)
        check_choice("uncertainty_aggregation", self.uncertainty_aggregation, UNCERTAINTY_AGGREGATIONS)
        if self.aggregation == "smooth_min" and self.uncertainty_aggregation == "reference":
            raise ValueError(
                "`uncertainty_aggregation='reference'` is the published code's, which has no `aggregation="
                "'smooth_min'`; use 'propagate'."
            )
        if not is_number(self.aggregation_temperature) or not self.aggregation_temperature > 0:
            raise ValueError(f"`aggregation_temperature` must be positive, got {self.aggregation_temperature}.")
        check_choice("layout", self.layout, LAYOUTS)
        check_choice("position_scheme", self.position_scheme, POSITION_SCHEMES)
        check_choice("preference_link", self.preference_link, PREFERENCE_LINKS)
        if self.head_type == "single" and len(self.dimensions) != 1:
            raise ValueError(f"`head_type='single'` judges one dimension (`['overall']`), got {self.dimensions}.")
        widths = self.head_hidden_sizes
        if (
            not isinstance(widths, list)
            or len(widths) != 2
            or not all(type(width) is int and 1 <= width <= MAX_HEAD_WIDTH for width in widths)
        ):
            raise ValueError(f"`head_hidden_sizes` must be two widths from 1 to {MAX_HEAD_WIDTH}, got {widths}.")
        if not is_number(self.head_dropout) or not 0 <= self.head_dropout < 1:
            raise ValueError(f"`head_dropout` must be from 0 up to 1, got {self.head_dropout!r}.")
        if self.calibration is not None:
            self.check_calibration(self.calibration)

    def check_calibration(self, calibration: Any) -> None:
        """Raise a `ValueError` unless it is a calibration of this model's dimensions."""
        covered = sorted(calibration) if isinstance(calibration, dict) else calibration
        # "overall" may stand beside the dimensions.
        if covered not in (sorted(self.dimensions), sorted({*self.dimensions, "overall"})):
            raise ValueError(f"`calibration` covers {covered}, the dimensions are {sorted(self.dimensions)}.")
        for name, affine in calibration.items():
            if (
                not isinstance(affine, dict)
                or not set(CALIBRATION_FIELDS) <= set(affine) <= {*CALIBRATION_FIELDS, *STD_FIELDS}
                or not all(map(is_number, affine.values()))
                or not (affine["slope"] > 0 and affine.get("std_factor", 1) > 0)
            ):
                raise ValueError(
                    f"`calibration[{name!r}]` must be {{'intercept': number, 'slope': number > 0}}, and may have "
                    f"'std_factor' > 0 with {', '.join(STD_FIELDS[1:])}; got {affine}."
                )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: object) -> Any:
        """As in transformers, but another model's configuration is an error.

        Raises:
            ValueError: If there is no `backbone_config`: its default is a model of 70 billion parameters.
        """
        if config_dict.get("backbone_config") is None:
            raise ValueError(
                f"This is the configuration of a {config_dict.get('model_type')!r} model, not of an EditReward model: "
                "there is no `backbone_config`. A new reward model starts with `EditRewardModel.from_backbone`."
            )
        return super().from_dict(config_dict, **kwargs)

    @property
    def custom_pipelines(self) -> dict[str, dict[str, object]]:
        """What `transformers.pipeline` builds for the task `edit-reward`."""
        # Made anew each time: `pipeline` puts classes in place of the names.
        return {"edit-reward": {"impl": "pipeline_editreward.EditRewardPipeline", "pt": ["AutoModel"]}}

    def scores(self, means: list[float], stds: list[float]) -> dict[str, ScoreFields]:
        """A candidate's scores by dimension, on the rubric's 1..4 scale where the calibration knows it.

        Args:
            means, stds: Raw, one per dimension. A standard deviation is scaled as its mean is, and by its own factor.
        """
        lines: dict[str, dict[str, float]] = self.calibration or {}
        return {
            name: calibrated_score(lines.get(name), mean, std)
            for name, mean, std in zip(self.dimensions, means, stds, strict=True)
        }

    def overall_score(self, reward: float, reward_std: float) -> ScoreFields | None:
        """A candidate's reward on the rubric's 1..4 scale, as an entry of `scores`; `None` of an uncalibrated model.

        Args:
            reward, reward_std: Raw.
        """
        line = self.overall_calibration
        return None if line is None else calibrated_score(line, reward, reward_std)

    @property
    def overall_calibration(self) -> dict[str, float] | None:
        """The calibration of the reward: its own, else the mean of the dimensions' lines, without a `std_factor`.

        It is increasing: whatever has the higher reward has the higher overall score.
        """
        if self.calibration is None:
            return None
        if "overall" in self.calibration and ("overall" not in self.dimensions or len(self.dimensions) == 1):
            return self.calibration["overall"]
        lines = [self.calibration[name] for name in self.dimensions]
        size = len(lines)
        slope = sum(line["slope"] for line in lines) / size / (size if self.aggregation == "sum" else 1)
        return {"intercept": sum(line["intercept"] for line in lines) / size, "slope": slope}

    @property
    def hidden_size(self) -> int:
        """Width of the backbone's language model (DeepSpeed's `auto` values ask for it)."""
        return self.get_text_config().hidden_size

    def to_dict(self) -> dict[str, Any]:
        """The configuration as a dictionary, without the path that the backbone was once loaded from."""
        output = super().to_dict()
        output["backbone_config"].pop("_name_or_path", None)
        return output

    def get_text_config(self, *args: object, **kwargs: object) -> PreTrainedConfig:
        """Configuration of the backbone's language model."""
        return self.backbone_config.get_text_config(*args, **kwargs)


EditRewardConfig.register_for_auto_class()

__all__ = ["EditRewardConfig"]
