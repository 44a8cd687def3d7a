"""Arguments of the training of generative scorers: TRL's `SFTConfig`, what to answer, and how it is evaluated."""

from dataclasses import dataclass, field

from trl import SFTConfig

from configuration_editreward import check_choice
from editreward.training.arguments import take_new_name_of_checkpointing
from editreward.training.bad_rows import ON_BAD_ROW
from editreward.training.datasets import GroupDataArguments


@dataclass
class GenerativeScriptArguments(GroupDataArguments):
    """Which groups to train on. Of simulated ones the reasons are known, too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dense_weight or self.dense_heads:
            raise ValueError("`dense_weight` and `dense_heads` are for reward models. Leave them unset.")
        self.simulated_truth = True


@dataclass
class GenerativeTrainingArguments(SFTConfig):
    """
    Arguments of [`GenerativeTrainer`]: those of TRL's `SFTConfig`, hence of `transformers.TrainingArguments`, and what
    the model learns to answer. A batch counts edit groups.

    Defaults that differ are a LoRA's, and what batches of whole groups need.
    """

    prompts: list[str] = field(
        default_factory=lambda: ["editreward"],
        metadata={
            "help": "Prompt sets that the model learns to answer, names or YAML files (`editreward prompts list`). "
            "The first is what the trained scorer is asked by default."
        },
    )
    answers_per_group: int | None = field(
        default=None,
        metadata={
            "help": "Answers of a group in a batch, drawn anew each time; by default all, each candidate by each "
            "prompt. Lower it where memory runs out: every answer is a row with its own images."
        },
    )
    score_weight: float = field(
        default=1.0,
        metadata={
            "help": "Weight of the tokens of scores in the loss, where others have 1. Reasons are many tokens and "
            "scores few: raise it (2 to 10) where answers read well and score badly. An answer's weights are scaled "
            "so that they add up to its tokens."
        },
    )
    max_pixels: int | None = field(
        default=None,
        metadata={"help": "Pixels of an image at most; larger ones are downscaled. Default: a megapixel."},
    )
    eval_score_groups: int = field(
        default=64,
        metadata={
            "help": "Groups of each evaluation set that are scored at each evaluation, beside the loss on all: the "
            "share of pairs in the annotated order. 0: none, as FSDP and DeepSpeed ZeRO-3 need it."
        },
    )
    on_bad_row: str = field(
        default="stop",
        metadata={
            "help": "What a group does that cannot be used, or has nothing to learn: 'stop' ends the run with its id; "
            "'skip' leaves it out and lists it at the end of the run and in skipped_rows.jsonl.",
            "choices": list(ON_BAD_ROW),
        },
    )

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate. 1e-4 is for LoRA."})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Shape of the learning rate over time."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Linear warm-up: a number of steps, or below 1 a share of all steps."}
    )
    per_device_train_batch_size: int = field(
        default=1, metadata={"help": "Edit groups per device and micro-batch, each with `answers_per_group` rows."}
    )
    per_device_eval_batch_size: int = field(default=1, metadata={"help": "The same in evaluation."})
    max_length: int | None = field(default=None, metadata={"help": "Not used: answers are never cut. Leave it unset."})
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Leave it off: the collator needs whole rows."}
    )
    prediction_loss_only: bool = field(
        default=True, metadata={"help": "Leave it on: evaluation keeps no logits of whole vocabularies."}
    )
    dataloader_num_workers: int = field(
        default=2, metadata={"help": "Processes that decode images and make batches while the model works."}
    )

    def __post_init__(self) -> None:
        take_new_name_of_checkpointing(self)
        super().__post_init__()
        check_choice("on_bad_row", self.on_bad_row, ON_BAD_ROW)
        if not self.prompts:
            raise ValueError("`prompts` is empty. Name at least one prompt set.")
        for name, value, least in (
            ("answers_per_group", self.answers_per_group, 1),
            ("max_pixels", self.max_pixels, 1),
            ("eval_score_groups", self.eval_score_groups, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"`{name}` must be {least} or more, got {value}.")
        if not 0 < self.score_weight < float("inf"):
            raise ValueError(f"`score_weight` must be above 0, got {self.score_weight}.")
        for name in ("packing", "padding_free", "assistant_only_loss"):
            if getattr(self, name):
                raise ValueError(f"`{name}` has no effect on answers about images. Leave it unset.")
        for name in ("max_length", "chat_template_path", "model_init_kwargs"):
            if getattr(self, name) is not None:
                raise ValueError(f"`{name}` has no effect on a generative scorer. Leave it unset.")
        if self.loss_type != "nll":
            raise ValueError(f"`loss_type` must be 'nll', got {self.loss_type!r}.")
        if self.label_smoothing_factor:
            raise ValueError("`label_smoothing_factor` has no effect on a generative scorer. Leave it unset.")
        self.dataset_kwargs: dict[str, object] = {"skip_prepare_dataset": True}  # it is the collator's work
        for name in ("dispatch_batches", "split_batches"):
            if getattr(self.accelerator_config, name):
                raise ValueError(f"`{name}` of `accelerator_config` would split groups among ranks. Leave it unset.")
            setattr(self.accelerator_config, name, False)
