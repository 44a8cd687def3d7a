"""Training arguments: TRL's `RewardConfig` with the defaults of this package, and what is new."""

from dataclasses import dataclass, field

from transformers import TrainingArguments
from trl import ModelConfig, RewardConfig

from configuration_editreward import check_choice
from editreward.groups.pairs import TIES
from editreward.training.bad_rows import ON_BAD_ROW
from editreward.training.losses import LOSSES
from editreward.training.metrics import lower_is_better
from editreward.training.parameters import PARTS, PARTS_WITH_A_RATE
from editreward.training.terms import LOSS_REDUCTIONS


def take_new_name_of_checkpointing(args: TrainingArguments) -> None:
    """Move `gradient_checkpointing`, which TRL has a default for, to `activation_checkpointing` before it is checked.

    The old name warns, and goes away with transformers 6.
    """
    if getattr(args, "activation_checkpointing", None) is None:
        args.activation_checkpointing = getattr(args, "gradient_checkpointing", True)
        args.gradient_checkpointing = None


@dataclass
class EditRewardTrainingArguments(RewardConfig):
    r"""
    Arguments of [`EditRewardTrainer`]: those of TRL's `RewardConfig`, hence of `transformers.TrainingArguments`, and
    how the loss is formed. The fields below document themselves in their `help`.

    Defaults that differ are the paper's recipe (arXiv 2509.26346: learning rate 2e-6, cosine, warm-up over 5 % of the
    steps, 2 epochs) and what packed groups need: rows stay whole (`remove_unused_columns=False`, `max_length=None`),
    the heads keep their dropout (`disable_dropout=False`), and a batch counts edit groups, not pairs.
    """

    learning_rate: float = field(
        default=2e-6,
        metadata={
            "help": "Peak learning rate. 2e-6 is for full fine-tuning of a 7B backbone; small models need more."
        },
    )
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "Shape of the learning rate over time."})
    warmup_steps: float = field(
        default=0.05, metadata={"help": "Linear warm-up: a number of steps, or below 1 a share of all steps."}
    )
    num_train_epochs: float = field(default=2.0, metadata={"help": "Passes over the training groups."})
    per_device_train_batch_size: int = field(
        default=1,
        metadata={"help": "Edit groups per device and micro-batch. A group of 7 candidates gives up to 21 pairs."},
    )
    per_device_eval_batch_size: int = field(
        default=1, metadata={"help": "Edit groups per device and batch in evaluation."}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "Not used: groups are never filtered by length. Leave it unset."}
    )
    disable_dropout: bool = field(
        default=False, metadata={"help": "Disable dropout everywhere, that of the reward heads included."}
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Leave it off: the collator needs whole rows."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False,
        metadata={"help": "Search for parameters without a gradient in every step. The model has none: leave it off."},
    )

    max_candidates: int | None = field(
        default=None,
        metadata={
            "help": "Most candidates of a group in a training row. Larger groups show other candidates in each epoch, "
            "so that over the epochs every pair is trained on (docs/training_data.md). Evaluation takes whole groups."
        },
    )
    split_into_pairs: bool = field(
        default=False,
        metadata={
            "help": "Train on every group as all of its pairs, rows of two candidates, in each epoch: the same losses "
            "at several times the cost. For comparisons."
        },
    )
    max_tokens_per_batch: int | None = field(
        default=None,
        metadata={
            "help": "Form batches by tokens, padding included, instead of by number of groups: as many groups of "
            "about one length as fit, so that memory is even. For training and evaluation, per device."
        },
    )
    shuffle_buffer_size: int = field(
        default=100,
        metadata={
            "help": "Streamed training data: groups that each worker holds to shuffle; 0 keeps the stream's order."
        },
    )
    vary_instructions: float = field(
        default=0.0,
        metadata={
            "help": "Share of the training groups whose instruction is written otherwise, anew in each epoch: "
            "other blanks, a line break, with or without full stop or capital letter. Evaluation has them as they are."
        },
    )
    on_bad_row: str = field(
        default="stop",
        metadata={
            "help": "What a row does that cannot be used (an image that is missing or broken, a score that is not "
            "finite ...): 'stop' ends the run with its id; 'skip' leaves it out and lists it at the end of the run "
            "and in skipped_rows.jsonl in the output folder.",
            "choices": list(ON_BAD_ROW),
        },
    )
    dataloader_num_workers: int = field(
        default=2,
        metadata={
            "help": "Processes that decode images and pack groups while the model works; 0 does it in between. Raise "
            "it where the logged `data_wait` is not near 0."
        },
    )

    loss: str = field(
        default="nll",
        metadata={
            "help": "Loss of a pair with reward difference z of mean d: 'nll', -log E[sigmoid(z)]; 'expected_nll', "
            "E[-log sigmoid(z)], which the published code samples; 'probit', the same as 'nll' with Phi for sigmoid; "
            "'bradley_terry', -log sigmoid(d), and 'bradley_terry_ties', which knows ties: baselines without "
            "uncertainty. Or of a candidate: 'regression', the squared error of the sum of its dimensions.",
            "choices": list(LOSSES),
        },
    )
    loss_reduction: str = field(
        default="pair",
        metadata={
            "help": "What an optimizer step averages over: 'pair', all its pairs alike, or 'group', the means of its "
            "groups. Use 'group' where groups differ much in size.",
            "choices": list(LOSS_REDUCTIONS),
        },
    )
    dimension_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the same loss per dimension, on that dimension's own scores. The dimensions' losses "
            "are averaged, so that a weight means the same for any number of dimensions. Above 0 the means of the "
            "dimensions are trained as scores of their own, and not only their aggregate."
        },
    )
    pointwise_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of a Gaussian likelihood of each dimension's annotated scores, the mean over the "
            "dimensions, beside the loss. A small one (0.05 to 0.2) keeps standard deviations from collapsing and "
            "ties the offset between groups, so that scores of different sources can be compared better."
        },
    )
    pointwise_scale: float = field(
        default=4.0,
        metadata={
            "help": "`pointwise_weight`: units of a raw mean that a point of the annotation scale is worth. About "
            "1 / slope of the calibration that the same run ends with without it; larger where annotators are surer."
        },
    )
    ties: str = field(
        default="drop",
        metadata={
            "help": "What becomes of pairs with equal overall scores: 'drop' leaves them out of the loss; "
            "'disentangle' makes two samples with opposite labels of a tie whose dimensions disagree; 'as_published' "
            "of agreeing ones, too; 'dimension' trains each dimension on its own winner; 'bradley_terry_ties' needs "
            "the loss of that name.",
            "choices": list(TIES),
        },
    )
    tie_weight: float = field(
        default=1.0, metadata={"help": "Weight of every sample that a tie gives, where a pair that differs has 1."}
    )

    label_smoothing: float = field(
        default=0.0,
        metadata={
            "help": "Pair losses: share of every pair's weight that goes to the opposite order. Raise it where "
            "annotators err; 0.5 would train nothing."
        },
    )
    vote_labels: bool = field(
        default=False,
        metadata={
            "help": "Pair losses: soft labels from the candidates' `annotations`, the share of annotators who prefer "
            "the pair's winner (equal scores count half), of those who have scored the two."
        },
    )
    rationale_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of a language-model loss on the candidates' written rationales (`rationale`): mean over "
            "their tokens in an optimizer step. No score depends on a rationale; the weights that are trained do."
        },
    )
    rationale_head: str | None = field(
        default=None,
        metadata={
            "help": "`rationale_weight`: vision-language model whose language-model head reads them, frozen and not "
            "saved. By default the model that the run starts from, which must have one."
        },
    )
    regression_offset: float | None = field(
        default=None,
        metadata={
            "help": "Loss 'regression': what is taken from a candidate's sum of scores, since heads start near 0. By "
            "default the middle of the scale, 2.5 for each dimension and 5 for 'overall', the sum of two (eq. 5 of "
            "arXiv 2509.26346); the published code takes 4.5."
        },
    )

    freeze: list[str] | None = field(
        default=None,
        metadata={
            "help": "Parts of the model that are not trained. 'token_embeddings' without 'reward_tokens' trains the "
            "reward tokens' rows of the embedding matrix alone. Saves memory, most of all with `--dtype auto`, which "
            "leaves frozen weights in the checkpoint's precision.",
            "choices": list(PARTS),
        },
    )
    vision_tower_learning_rate: float | None = field(
        default=None, metadata={"help": "Peak learning rate of the vision tower, by default `learning_rate`."}
    )
    merger_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Peak learning rate of what projects the vision tower's features into the language model, by "
            "default `learning_rate`."
        },
    )
    heads_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Peak learning rate of the reward heads, by default `learning_rate`. New heads bear more."},
    )
    reward_tokens_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Peak learning rate of the reward tokens' embeddings, by default `learning_rate`."},
    )

    greater_is_better: bool | None = field(
        default=None,
        metadata={
            "help": "Whether `metric_for_best_model` is better when it is higher. By default losses and calibration "
            "errors are better when they are lower, everything else when it is higher."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after this many evaluations in a row that are not better than the best one in "
            "`metric_for_best_model`. Add `load_best_model_at_end` to keep the best weights."
        },
    )
    early_stopping_threshold: float = field(
        default=0.0, metadata={"help": "By how much an evaluation must be better to count as better."}
    )
    hardest_groups: int = field(
        default=6,
        metadata={
            "help": "Groups of the evaluation set to draw with their scores after each evaluation: those whose "
            "annotated preferences the model finds least likely. 0: none."
        },
    )
    calibrate: bool = field(
        default=True,
        metadata={
            "help": "At the end, fit the map of raw means onto the 1..4 scale on the evaluation set and save it in "
            "the model's config. Skipped, with a message, where the evaluation set has no scores on that scale."
        },
    )

    def __post_init__(self) -> None:
        if self.metric_for_best_model is not None and self.greater_is_better is None:
            self.greater_is_better = not lower_is_better(self.metric_for_best_model)
        take_new_name_of_checkpointing(self)
        super().__post_init__()
        self._check_parts()
        self._check_loss()
        self._check_batches()
        self._check_evaluation()
        for name in ("max_length", "center_rewards_coefficient", "chat_template_path", "model_init_kwargs"):
            if getattr(self, name) is not None:
                raise ValueError(f"`{name}` has no effect on an EditReward model. Leave it unset.")
        # Each rank packs its own groups: accelerate would cut the packed tensors of a stream's batches into pieces.
        for name in ("dispatch_batches", "split_batches"):
            if getattr(self.accelerator_config, name):
                raise ValueError(f"`{name}` of `accelerator_config` would split groups among ranks. Leave it unset.")
            setattr(self.accelerator_config, name, False)

    def _check_parts(self) -> None:
        if isinstance(self.freeze, str):  # a YAML file's text goes through the parser as it is
            raise ValueError(f"`freeze` is the text {self.freeze!r}; write a list: `freeze: [{self.freeze}]`.")
        for part in self.freeze or ():
            check_choice("freeze", part, PARTS)
        for part in PARTS_WITH_A_RATE:
            rate = getattr(self, f"{part}_learning_rate")
            if rate is not None and part in (self.freeze or ()):
                raise ValueError(f"`{part}_learning_rate` is set and `freeze` names '{part}'. Drop one of them.")
            if rate is not None and not rate > 0:
                raise ValueError(f"`{part}_learning_rate` must be above 0, got {rate}; `--freeze {part}` freezes.")

    def _check_loss(self) -> None:
        for name, choices in (("loss", LOSSES), ("loss_reduction", LOSS_REDUCTIONS), ("ties", TIES)):
            check_choice(name, getattr(self, name), tuple(choices))
        if (self.ties == "bradley_terry_ties") != LOSSES[self.loss].knows_ties:
            raise ValueError(
                f"`ties` {self.ties!r} does not go with the loss {self.loss!r}: 'bradley_terry_ties' is for both or "
                "for neither."
            )
        # Options that are for some losses only: whether this loss reads them, and their defaults.
        pairwise = LOSSES[self.loss].pairwise
        of_pairs = dict.fromkeys(("ties", "tie_weight", "label_smoothing", "vote_labels"), pairwise)
        for name, applies in (of_pairs | {"regression_offset": not pairwise}).items():
            if not applies and getattr(self, name) != self.__dataclass_fields__[name].default:
                raise ValueError(f"`{name}` says nothing to the loss {self.loss!r}. Leave it unset.")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"`label_smoothing` must be 0 or more and below 0.5, got {self.label_smoothing}.")
        if self.label_smoothing_factor != 0:
            raise ValueError("`label_smoothing_factor` is for classifiers and has no effect. Use `label_smoothing`.")
        if not 0 < self.pointwise_scale < float("inf"):
            raise ValueError(f"`pointwise_scale` must be above 0, got {self.pointwise_scale}.")
        for name in ("rationale_weight", "tie_weight", "dimension_weight", "pointwise_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be 0 or more, got {getattr(self, name)}.")

    def _check_batches(self) -> None:
        check_choice("on_bad_row", self.on_bad_row, ON_BAD_ROW)
        if self.max_candidates is not None and self.max_candidates < 2:
            raise ValueError(f"`max_candidates` must be 2 or more, for a pair, got {self.max_candidates}.")
        if self.max_candidates is not None and self.split_into_pairs:
            raise ValueError("`split_into_pairs` leaves nothing for `max_candidates` to cut down. Unset one of them.")
        if self.max_tokens_per_batch is not None and self.max_tokens_per_batch < 1:
            raise ValueError(f"`max_tokens_per_batch` must be positive, got {self.max_tokens_per_batch}.")
        if self.max_tokens_per_batch is not None and self.auto_find_batch_size:
            raise ValueError("`auto_find_batch_size` cannot lower `max_tokens_per_batch`. Unset one of them.")
        if not 0 <= self.vary_instructions <= 1:
            raise ValueError(f"`vary_instructions` must be a share from 0 to 1, got {self.vary_instructions}.")
        if self.shuffle_buffer_size < 0:
            raise ValueError(f"`shuffle_buffer_size` must be 0 or more, got {self.shuffle_buffer_size}.")
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise ValueError(
                f"`train_sampling_strategy` {self.train_sampling_strategy!r} does not know groups. Use "
                "`max_tokens_per_batch` for batches of even length."
            )

    def _check_evaluation(self) -> None:
        if self.early_stopping_patience is not None:
            if self.early_stopping_patience < 1:
                raise ValueError(f"`early_stopping_patience` must be positive, got {self.early_stopping_patience}.")
            for name, unset in (("metric_for_best_model", None), ("eval_strategy", "no")):
                if getattr(self, name) == unset:
                    raise ValueError(f"`early_stopping_patience` needs `{name}`, which is not set.")
        if self.hardest_groups < 0:
            raise ValueError(f"`hardest_groups` must be 0 or more, got {self.hardest_groups}.")


@dataclass
class EditRewardModelConfig(ModelConfig):
    """TRL's `ModelConfig` with another default for `dtype`."""

    dtype: str | None = field(
        default="auto",
        metadata={
            "help": "Precision that the model is loaded in. 'auto': float32 for the weights that are trained, the "
            "checkpoint's own for frozen ones.",
            "choices": ["auto", "bfloat16", "float16", "float32"],
        },
    )
