"""The trainer: TRL's `RewardTrainer` with pair losses over packed edit groups."""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import TorchDynamoPlugin, is_peft_model, send_to_device
from datasets import Dataset, IterableDataset
from peft import PeftConfig, get_peft_model
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import ProgressCallback, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, TrainOutput
from trl import RewardTrainer

from configuration_editreward import CALIBRATION_FIELDS
from editreward.training.adapters import check_base, save_configuration, trained_weights
from editreward.training.arguments import EditRewardTrainingArguments
from editreward.training.auxiliary import AuxiliaryLoss
from editreward.training.bad_rows import BadRows
from editreward.training.callbacks import RewardEarlyStoppingCallback, RewardProgressCallback, TrainingFlowCallback
from editreward.training.card import write_model_card
from editreward.training.checkpoints import (
    INCOMPLETE,
    checkpoint_to_resume,
    complete_checkpoint,
    complete_model,
    rotate_checkpoints,
)
from editreward.training.collator import EditGroupCollator, check_columns
from editreward.training.dataloading import DataWait, first_row, group_dataloader
from editreward.training.hardest import HardestGroups
from editreward.training.identity import check_identity, run_identity, save_identity
from editreward.training.losses import LOSSES, GaussianLikelihood, RewardLoss
from editreward.training.metrics import (
    EvaluationScores,
    Evaluator,
    MetricSums,
    Throughput,
    batch_statistics,
    check_metric,
    collapse_warning,
    collapsed_dimensions,
    evaluation_metrics,
    peak_memory_gib,
)
from editreward.training.parameters import (
    check_precision,
    compile_language_model,
    fold_reward_tokens,
    learning_rates,
    select_trained,
    set_learning_rates,
)
from editreward.training.rationales import RationaleLoss, language_model_head
from editreward.training.safety import memory_advice, stop_unless_finite
from editreward.training.sharding import configure_deepspeed, configure_fsdp, finish_fsdp
from editreward.training.terms import TERMS, GroupBatch, LossTerms, Samples, TermCollator
from modeling_editreward import EditRewardModel, EditRewardOutput
from processing_editreward import EditRewardProcessor

logger = logging.getLogger(__name__)

# What the collator adds to the inputs of the model: tensors, and what is none.
ANNOTATION = ("labels", "preferences", "preference_weight", "annotator_labels", "rationale_ids", *TERMS)
NAMES = ("group_ids", "instructions", "num_tokens", "auxiliary")


class EditRewardTrainer(RewardTrainer):
    """
    Trains an [`EditRewardModel`] on edit groups, each run through the model once for the loss of all its pairs.

    With w the weights of the pairs, the loss of an optimizer step is sum(w x loss) / sum(w) over all usable pairs of
    all its groups, micro-batches and ranks: accumulating gradients or adding devices changes nothing but speed. With
    `loss_reduction="group"` each group's weights are scaled to a sum of 1 first. `dimension_weight` adds the mean over
    the dimensions of the same expression, on the pairs that each dimension's own scores give.

    Args:
        model ([`EditRewardModel`]): A loaded model.
        args ([`EditRewardTrainingArguments`]): How to train.
        train_dataset (`datasets.Dataset` or `datasets.IterableDataset`): Edit groups in the dataset schema, one a row.
        eval_dataset (the same or a dictionary of such, *optional*): Groups to evaluate on.
        processing_class ([`EditRewardProcessor`]): The model's processor.
        data_collator (*optional*): By default an [`EditGroupCollator`] on the processor.
        callbacks, optimizers (*optional*): As in `transformers.Trainer`.
        auxiliary_loss ([`AuxiliaryLoss`], *optional*): A further loss within the model, added with its own weight. Not
            for sharded models.
        peft_config (`peft.PeftConfig`, *optional*): The adapter to train, see `editreward.training.adapters`. Without
            it, what `args.freeze` does not name is trained.
        loss ([`RewardLoss`], *optional*): By default the one that `args.loss` names, with the options of the
            arguments. One that is passed has its own: theirs of the loss, of ties and of labels are not read.
        evaluators (sequence of [`Evaluator`], *optional*): Metrics of each evaluation beside those of this package.

    What it logs, draws and writes is listed in `docs/monitoring.md`. `train` ends with an evaluation of the weights
    that are kept, if there are evaluations at all, and with their calibration.
    """

    loss_is_scaled_for_ga = True
    _signature_columns: list[str] | None
    # Of the optimizer step that runs, on this rank: how many micro-batches it has, and the losses and groups of those
    # that are done.
    _micro_batches = 1
    _losses: list[tuple[Tensor, list[str]]]
    _saves_checkpoint = False

    # What the model cards of checkpoints say the run was trained on; Hub ids, or paths, which are not told.
    dataset_names: Sequence[str] = ()

    _tag_names = ["trl", "reward-trainer", "editreward"]
    _name = "EditReward"

    def __init__(
        self,
        model: EditRewardModel,
        args: EditRewardTrainingArguments,
        train_dataset: Dataset | IterableDataset,
        eval_dataset: Dataset | IterableDataset | dict[str, Dataset | IterableDataset] | None = None,
        processing_class: EditRewardProcessor | None = None,
        data_collator: EditGroupCollator | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        peft_config: PeftConfig | None = None,
        loss: RewardLoss | None = None,
        evaluators: Sequence[Evaluator] = (),
        auxiliary_loss: AuxiliaryLoss | None = None,
    ) -> None:
        _check_types(model, args, processing_class)
        assert processing_class is not None
        processing_class.check_config(model.config)
        self.dimensions = list(model.config.dimensions)
        loss = self._set_terms(loss, args)
        self.rationale_loss: RationaleLoss | None = None
        if args.rationale_weight > 0:
            self.rationale_loss = RationaleLoss(language_model_head(model, args.rationale_head))
        self.evaluators = evaluators
        self._start_measuring(args)
        self._check_best_metric(args.metric_for_best_model, eval_dataset)
        _select_trained(model, args, peft_config, processing_class.reward_token_ids)
        self.auxiliary_loss = auxiliary_loss
        if auxiliary_loss is not None:
            auxiliary_loss.watch(model)
        trained: Mapping[str, Tensor] = {}
        if peft_config is not None and getattr(model, "is_quantized", False):
            model, peft_config = get_peft_model(model, peft_config), None
            trained = trained_weights(model)

        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator or self._collator(processing_class, args, loss),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            peft_config=peft_config,
        )
        for name, value in trained.items():
            # TRL has just rounded the adapters of a quantized model to bfloat16.
            parameter = self.model.get_parameter(name)
            parameter.data = value.to(parameter.device)
        check_precision(self.model, args)
        if args.torch_compile:
            compile_language_model(self.model, args.torch_compile_backend, args.torch_compile_mode)
        self.loss = loss
        self._add_callbacks()
        # `get_batch_samples` counts what the loss is divided by; the model takes no such argument.
        self.model_accepts_loss_kwargs = False

    def _collator(
        self, processor: EditRewardProcessor, args: EditRewardTrainingArguments, loss: RewardLoss
    ) -> EditGroupCollator:
        return EditGroupCollator(
            processor,
            args.on_bad_row,
            vote_labels=loss.vote_labels,
            rationales=self.rationale_loss is not None,
            auxiliary_loss=self.auxiliary_loss,
        )

    def _set_terms(self, loss: RewardLoss | None, args: EditRewardTrainingArguments) -> RewardLoss:
        """The loss, by default the one of the arguments, and the parts that it is taken over."""
        if loss is None:
            loss = LOSSES[args.loss].from_arguments(args, self.dimensions)
        loss.check_dimensions(self.dimensions)
        self.pointwise: GaussianLikelihood | None = None
        if args.pointwise_weight > 0:
            self.pointwise = GaussianLikelihood.from_arguments(args, self.dimensions)
        self.terms = LossTerms(
            loss.samples,
            self.dimensions,
            args.dimension_weight,
            args.loss_reduction,
            self.pointwise and self.pointwise.samples,
        )
        # The parts of the loss: the dimension whose scores decide (None: their sum) and the weight.
        self._terms = self.terms.weights
        return loss

    def _start_measuring(self, args: EditRewardTrainingArguments) -> None:
        self._voted = False  # since the last log
        self._warned_of_collapse = False
        self._sums = {
            mode: MetricSums(self.dimensions, self._terms, args.rationale_weight, args.pointwise_weight)
            for mode in ("train", "eval")
        }
        self.throughput = Throughput()
        self.data_wait = DataWait()
        self.bad_rows = BadRows(args.output_dir)
        # Of each evaluation set, by the prefix of its metrics, and the step whose weights gave them.
        self.evaluated: dict[str, EvaluationScores] = {}
        self._evaluated_step: int | None = None

    def _check_best_metric(
        self,
        metric: str | None,
        eval_dataset: Dataset | IterableDataset | dict[str, Dataset | IterableDataset] | None,
    ) -> None:
        """Raise a `ValueError` unless evaluations compute the metric that decides which weights are best."""
        if metric is None:
            return
        metrics = evaluation_metrics(self.dimensions, self._terms, self.pointwise is not None)
        metrics += [] if self.rationale_loss is None else ["rationale_loss"]
        metrics += [name for evaluator in self.evaluators for name in evaluator.names]
        sets = [f"{name}_" for name in eval_dataset] if isinstance(eval_dataset, dict) else [""]
        check_metric(metric, [f"{name}{metric}" for name in sets for metric in metrics])

    def _add_callbacks(self) -> None:
        TrainingFlowCallback(self.finish_training).add_to(self.callback_handler.callbacks)
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(RewardProgressCallback())
        args = self.args
        if args.early_stopping_patience is not None:
            self.add_callback(RewardEarlyStoppingCallback(args.early_stopping_patience, args.early_stopping_threshold))

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in `transformers.Trainer`, with the parts' own learning rates."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new:
            set_learning_rates(optimizer, model or self.model, learning_rates(self.args))
        return optimizer

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: object, **kwargs: object) -> TrainOutput:
        """As in `transformers.Trainer`; the model's config takes the loss's link, and a calibration that it has is
        fitted anew at the end, or kept with a warning.

        Args:
            resume_from_checkpoint: See [`checkpoint_to_resume`].
        """
        checkpoint = checkpoint_to_resume(self.args.output_dir, resume_from_checkpoint)
        self._identity = run_identity(self.args, self.train_dataset)
        self._identity["auxiliary_weight"] = self.auxiliary_loss and self.auxiliary_loss.weight
        if checkpoint is not None:
            check_identity(Path(checkpoint), self._identity)
        self.model.config.preference_link = self.loss.link
        self._drop_std_factors()
        self.bad_rows.start(checkpoint is not None, self.accelerator.is_main_process)
        self.data_wait = DataWait()
        self._evaluated_step = None  # an earlier call's may have the same number
        output = super().train(checkpoint, *args, **kwargs)
        self.bad_rows.gather(self.accelerator.is_main_process)
        if self.accelerator.is_main_process:
            self.bad_rows.report()
        return output

    def _init_training_state(
        self, max_steps: int, steps_per_epoch: int, num_train_epochs: int, checkpoint: str | None, trial: object
    ) -> tuple[int, int]:
        # The Trainer looks whether a run is finished only after a step: a finished one would train a step more.
        epochs, batches = super()._init_training_state(max_steps, steps_per_epoch, num_train_epochs, checkpoint, trial)
        if checkpoint is not None and self.state.global_step >= max_steps:
            logger.warning(
                "%s is of step %d of %d: the run is finished, and its weights stay as they are. More "
                "`--max_steps` or `--num_train_epochs` train on.",
                checkpoint,
                self.state.global_step,
                max_steps,
            )
            return num_train_epochs, 0
        return epochs, batches

    # Data

    def _prepare_dataset(
        self,
        dataset: Dataset | IterableDataset,
        processing_class: EditRewardProcessor,
        args: EditRewardTrainingArguments,
        dataset_name: str,
    ) -> Dataset | IterableDataset:
        # Rows stay as they are until the collator. One is read, since a dataset with a transform hides its columns.
        first = first_row(dataset, args.on_bad_row)
        if first is None:
            raise ValueError(f"The {dataset_name} dataset is empty.")
        check_columns(first, f"The {dataset_name} dataset")
        return dataset

    def _get_dataloader(
        self,
        dataset: Dataset | IterableDataset,
        description: str,
        batch_size: int,
        *args: object,
        is_training: bool = False,
        **kwargs: object,
    ) -> torch.utils.data.DataLoader:
        key = kwargs.get("dataloader_key")
        collator = TermCollator(self.data_collator, self.terms)
        loader = group_dataloader(
            dataset, collator, self.processing_class, self.args, self.accelerator, batch_size, is_training
        )
        if key is not None and self.args.dataloader_persistent_workers:
            self._eval_dataloaders = {**getattr(self, "_eval_dataloaders", {}), key: loader}
        return loader

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns = ["group_id", "source_images", "instruction", "candidates", "preferences"]

    def _prepare_inputs(self, inputs: GroupBatch) -> GroupBatch:
        if "terms" not in inputs:  # of another data loader than ours
            inputs = {**inputs, **self.terms(inputs)}
        annotation = {name: value for name, value in inputs.items() if name in ANNOTATION}
        # DeepSpeed runs have every float of the others cast to half precision.
        others = {name: value for name, value in inputs.items() if name not in ANNOTATION}
        prepared: GroupBatch = super()._prepare_inputs(others) | send_to_device(annotation, self.args.device)
        return prepared

    # Sharding

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        # `torch_compile` compiles the language model's layers, not the model as a whole.
        self.accelerator.state.dynamo_plugin = TorchDynamoPlugin(backend="no")
        if self.is_fsdp_enabled:
            configure_fsdp(self.accelerator.state.fsdp_plugin, self.accelerator.mixed_precision)
        plugin = self.accelerator.state.deepspeed_plugin if self.is_deepspeed_enabled else None
        if plugin is not None:
            configure_deepspeed(plugin, self.args)
        is_sharded = self.is_fsdp_enabled or (plugin is not None and plugin.zero_stage == 3)
        if self.auxiliary_loss is not None and is_sharded:
            raise ValueError(
                "The dense losses need the whole model on each GPU: with FSDP or ZeRO-3 set `--dense_weight 0`."
            )

    def _prepare_for_training(self, *args: object, **kwargs: object) -> object:
        prepared = super()._prepare_for_training(*args, **kwargs)
        if self.is_fsdp_enabled:
            finish_fsdp(self.model)
        return prepared

    # Loss

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Tensor]:
        """The micro-batches of an optimizer step, and the sum of weights of each term of its loss over all ranks."""
        self.throughput.start()
        with self.data_wait.measure():
            batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in batches:
            self.bad_rows.add("train", batch.pop("skipped_rows", ()), len(batch["group_ids"]))
            self._voted |= self.loss.vote_labels and batch["annotator_labels"].shape[1] > 0
        self._micro_batches, self._losses = len(batches), []
        total = torch.zeros((), device=device)
        for batch in batches:
            if batch["group_ids"]:
                self.throughput.count(batch, batch["terms"][0])
            total = total + self._total_weights(batch).to(device)
        return batches, self.accelerator.reduce(total, "sum")

    def training_step(self, model: nn.Module, inputs: GroupBatch, num_items_in_batch: Tensor | None = None) -> Tensor:
        """As in `transformers.Trainer`; running out of memory says what to change."""
        with memory_advice(self.args, inputs):
            return super().training_step(model, inputs, num_items_in_batch)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Tensor | float | None = None) -> Tensor | float | None:
        grad_norm = super()._get_grad_norm(model, grad_norm)
        if isinstance(grad_norm, DTensor):
            grad_norm = grad_norm.full_tensor()
        # Steps that overflow in float16 are skipped and its scale is lowered.
        if grad_norm is not None and self.accelerator.scaler is None:
            norm = torch.as_tensor(grad_norm, device=self.accelerator.device)
            groups = [name for _, names in self._losses for name in names]
            stop_unless_finite(self.accelerator, [norm], "norm of the gradient", [groups], self.state.global_step + 1)
        return grad_norm

    def compute_loss(
        self,
        model: nn.Module,
        inputs: GroupBatch,
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, EditRewardOutput]:
        """This micro-batch's share of the loss of the optimizer step.

        Args:
            model (`nn.Module`): The model, as wrapped for training.
            inputs (`dict`): A batch of the collator.
            return_outputs (`bool`, defaults to `False`): Return the model's outputs too.
            num_items_in_batch (`torch.Tensor` of the shape that `_total_weights` gives, *optional*):
                From `get_batch_samples`. Without it, the batch is taken for a whole step.
        """
        outputs, losses = self._forward(model, inputs)
        token_losses, pointwise = self._token_losses(outputs, inputs), self._pointwise_losses(outputs, inputs)
        if model.training:
            self._sums["train"].add(self._statistics(outputs, inputs, losses, token_losses, pointwise))
        if num_items_in_batch is None:
            total_weights, ranks = self._total_weights(inputs), 1
            self._micro_batches, self._losses = 1, []
        else:
            # The gradients of the ranks are averaged; theirs is a sum.
            total_weights, ranks = num_items_in_batch, self.accelerator.num_processes
        *totals, tokens = total_weights.unbind()
        loss = self.args.rationale_weight * ranks * token_losses.sum() / tokens.where(tokens > 0, 1)
        weights = [weight for _, weight in self._terms]
        weights += [self.args.pointwise_weight / len(self.dimensions)] * len(pointwise)
        terms = [*inputs["terms"], *inputs["pointwise"]]
        for weight, total, term, term_loss in zip(weights, totals, terms, [*losses, *pointwise], strict=True):
            # Without a usable sample this is the sum of an empty tensor: zero, with the graph of the whole model.
            loss = loss + weight * ranks * (term.weight * term_loss).sum() / total.where(total > 0, 1)
        if self.auxiliary_loss is not None and "auxiliary" in inputs:
            auxiliary = torch.stack(list(self.auxiliary_loss(inputs, inputs["auxiliary"]).values())).sum()
            loss = loss + self.auxiliary_loss.weight * auxiliary / self._micro_batches
        if model.training:
            self._losses.append((loss.detach(), inputs["group_ids"]))
            if len(self._losses) == self._micro_batches:
                values, groups = zip(*self._losses, strict=True)
                stop_unless_finite(self.accelerator, values, "loss", groups, self.state.global_step + 1)
        return (loss, outputs) if return_outputs else loss

    def _forward(self, model: nn.Module, inputs: GroupBatch) -> tuple[EditRewardOutput, list[Tensor]]:
        """Outputs of the model ([`EditRewardOutput`]); for each term of the loss the loss of each of its samples."""
        outputs = model(**{name: value for name, value in inputs.items() if name not in (*ANNOTATION, *NAMES)})
        # The aggregate comes last, as the samples' dimension -1.
        mean = torch.cat([outputs.mean, outputs.reward[:, None]], dim=-1)
        std = torch.cat([outputs.log_std.exp(), outputs.reward_std[:, None]], dim=-1)
        return outputs, [self.loss.of(term, mean, std) for term in inputs["terms"]]

    def _pointwise_losses(self, outputs: Any, inputs: GroupBatch) -> list[Tensor]:
        """The negative log likelihood of each sample of each dimension; empty without `pointwise_weight`."""
        if self.pointwise is None:
            return []
        return [self.pointwise.of(term, outputs.mean, outputs.log_std) for term in inputs["pointwise"]]

    def _token_losses(self, outputs: Any, inputs: GroupBatch) -> Tensor:
        """Loss of each token of the rationales, `(tokens,)`."""
        if self.rationale_loss is None:
            return outputs.reward.new_zeros(0)
        return self.rationale_loss(outputs.hidden_states, inputs["rationale_ids"])

    def _total_weights(self, inputs: GroupBatch) -> Tensor:
        """The sum of weights of each term of the loss, of each dimension's likelihood where there is one, and the
        number of tokens of rationales: `(terms + dimensions or 0 + 1,)`."""
        terms: list[Samples] = [*inputs["terms"], *inputs["pointwise"]]
        tokens = terms[0].weight.new_full((), len(inputs.get("rationale_ids", ())))
        return torch.stack([*(term.weight.sum() for term in terms), tokens])

    # Metrics

    def _statistics(
        self,
        outputs: Any,
        inputs: GroupBatch,
        losses: Sequence[Tensor],
        token_losses: Tensor,
        pointwise: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        statistics = batch_statistics(self.dimensions, self._terms, outputs, inputs, losses, pointwise)
        if self.rationale_loss is not None:
            token_losses = token_losses.detach().to(outputs.reward.dtype)
            sums = token_losses.new_zeros(len(inputs["input_ids"]), 2)
            values = torch.stack([token_losses, torch.ones_like(token_losses)], dim=-1)
            statistics["rationale_loss"] = sums.index_add(0, inputs["hidden_positions"][:, 0], values)
        # Without a usable row, the batch is a grey image that keeps the ranks together.
        return statistics if inputs["group_ids"] else {k: torch.zeros_like(v) for k, v in statistics.items()}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training and self._sums["train"]:
            self._sums["train"].reduce(self.accelerator)
            metrics = self._sums["train"].pop()
            self._warn_of_collapse(metrics)
            if self.rationale_loss is not None and "rationale_loss" not in metrics:
                logger.warning("No group since the last log has a `rationale`: `rationale_weight` trained nothing.")
            if self.loss.vote_labels and not self._voted:
                logger.warning("No group since the last log has `annotations`: `vote_labels` changed nothing.")
            self._voted = False
            # The Trainer's own `loss` is the mean over the steps.
            logs.update({name: value for name, value in metrics.items() if name != "loss"})
            logs.update(self.throughput.pop(self.accelerator, self.state.log_history))
            logs["peak_memory_gib"] = peak_memory_gib(self.accelerator)
            logs["data_wait"] = self.data_wait.pop(self.accelerator)
            self.bad_rows.gather(self.accelerator.is_main_process)
        if "learning_rate" in logs:
            groups = self.optimizer.param_groups
            logs.update({f"{group['part']}_learning_rate": group["lr"] for group in groups if group.get("part")})
        super().log(logs, start_time)

    def _warn_of_collapse(self, metrics: Mapping[str, float]) -> None:
        """Warn once when standard deviations have collapsed."""
        if self._warned_of_collapse or not self.loss.trains_std:
            return
        collapsed = collapsed_dimensions(metrics, self.dimensions)
        if collapsed:
            self._warned_of_collapse = True
            logger.warning(collapse_warning(metrics, collapsed, self.loss.name))

    # Evaluation

    def evaluation_loop(
        self,
        dataloader: torch.utils.data.DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        self._sums["eval"].clear()
        self._evaluated_split = metric_key_prefix
        self._evaluation = self.evaluated[metric_key_prefix] = EvaluationScores()
        self._hardest = HardestGroups(self.args.hardest_groups, self.processing_class)
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        self._evaluated_step = self.state.global_step
        self.bad_rows.gather(self.accelerator.is_main_process)
        if not self._evaluation.groups:
            raise ValueError(
                f"No row of the evaluation set ({metric_key_prefix!r}) can be used; {self.bad_rows.file} says why."
            )
        self._sums["eval"].reduce(self.accelerator)
        self._hardest.report(self, metric_key_prefix)
        metrics = self._sums["eval"].pop()
        metrics |= self._evaluation.metrics(self.dimensions, self.model.config.preference_link)
        for evaluator in self.evaluators:
            metrics |= evaluator(self._evaluation.groups)
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output

    def prediction_step(
        self,
        model: nn.Module,
        inputs: GroupBatch,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, None, None]:
        """Add a batch to the metrics. The loop gets nothing: its means over batches are not means over pairs."""
        inputs = self._prepare_inputs(inputs)
        self.bad_rows.add(self._evaluated_split, inputs.pop("skipped_rows", ()), len(inputs["group_ids"]))
        with torch.no_grad(), memory_advice(self.args, inputs), self.compute_loss_context_manager():
            outputs, losses = self._forward(model, inputs)
            token_losses, pointwise = self._token_losses(outputs, inputs), self._pointwise_losses(outputs, inputs)
        self._sums["eval"].add(self._statistics(outputs, inputs, losses, token_losses, pointwise))
        own = self._evaluation.add(outputs, inputs, self.accelerator)
        self._hardest.add(own, inputs, self.model.config.preference_link)
        return None, None, None

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.state.best_global_step != self.state.global_step:
            self._evaluated_step = None

    def _drop_std_factors(self) -> None:
        """Forget what was measured of the errors of the model as it was; its scale stays until it is fitted anew."""
        config = self.model.config
        if config.calibration is not None:
            config.calibration = {
                name: {field: line[field] for field in CALIBRATION_FIELDS} for name, line in config.calibration.items()
            }

    def finish_training(self) -> None:
        """Evaluate the final weights, unless that has been done, and calibrate them; called by `train`."""
        evaluates = self.args.eval_strategy != "no"
        if evaluates and self._evaluated_step != self.state.global_step:
            self.evaluate()
        if evaluates and self.args.calibrate:
            self.calibrate()
        else:
            self._stay_as_before("there was no evaluation" if not evaluates else "`calibrate` is false")

    def _stay_as_before(self, reason: str) -> None:
        """Warn that a calibration, which was fitted to other weights, was kept."""
        if self.model.config.calibration is not None:
            logger.warning(
                "The calibration is that of the model that training went on from, fitted to its weights, not to these "
                "(%s). `editreward calibrate --model %s --data LABELLED` fits it anew.",
                reason,
                self.args.output_dir,
            )

    def calibrate(self) -> None:
        """Fit the config's calibration on the last evaluation, on the first set whose scores allow it, and log its
        error on groups that the fit did not see. Where none does, a warning says why, and one that there was stays."""
        config, reasons = self.model.config, []
        for prefix, scores in self.evaluated.items():
            try:
                fits = scores.calibrate(self.dimensions)
            except ValueError as error:
                reasons.append(f"{prefix}: {error}")
                continue
            config.calibration = {name: line for name, (line, _) in fits.items()}
            logger.info("The calibration was fitted on the %s set.", prefix)
            errors = {name: error.to_dict() for name, (_, error) in fits.items()}
            self.log({f"{prefix}_calibration_{k}_{name}": v for name, of in errors.items() for k, v in of.items()})
            return
        if config.calibration is None:
            logger.warning("The model stays uncalibrated. %s", ". ".join(reasons))
        self._stay_as_before("; ".join(reasons))

    # Saving

    def _get_output_dir(self, trial: object) -> str:
        run_dir = super()._get_output_dir(trial)
        return os.path.join(run_dir, INCOMPLETE) if self._saves_checkpoint else run_dir

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        """As in `transformers.Trainer`, but what a killed run leaves is a whole checkpoint or none; rotate after."""
        run_dir = Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        incomplete, checkpoint = run_dir / INCOMPLETE / name, run_dir / name
        self._make_empty(incomplete)
        self.accelerator.wait_for_everyone()
        self._saves_checkpoint = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saves_checkpoint = False
        self.accelerator.wait_for_everyone()
        if self.state.best_global_step == self.state.global_step:
            # The state names the folder as it was then.
            self.state.best_model_checkpoint = str(checkpoint)
            if self.args.should_save:
                self.state.save_to_json(str(incomplete / TRAINER_STATE_NAME))
        if self.args.should_save:
            save_identity(incomplete, self._identity)
            complete_checkpoint(incomplete, checkpoint, self._ranks_of_checkpoint())
            rotate_checkpoints(run_dir, self.args.save_total_limit, checkpoint, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))

    def _finalize_training(self, trial: object, *args: object, **kwargs: object) -> object:
        best = self.state.best_model_checkpoint
        if self.args.should_save and best is not None and self.args.save_total_limit == 1:
            # The Trainer would delete what the best one supersedes in place.
            rotate_checkpoints(Path(self._get_output_dir(trial)), 1, Path(best), best)
        return super()._finalize_training(trial, *args, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._saves_checkpoint:  # it gets its name first
            return
        if self.is_world_process_zero():
            # The Trainer copies config and weights; without the class's own file they do not load from the Hub.
            for file in Path(checkpoint_folder).glob("*.py"):
                shutil.copy(file, self.args.output_dir)
        super()._push_from_checkpoint(checkpoint_folder)

    def _ranks_of_checkpoint(self) -> range:
        """Ranks that write their random states into this process's checkpoint."""
        if self.args.world_size == 1 or self.args.save_only_model:
            return range(0)
        if self.args.save_on_each_node:
            first = self.args.process_index
            return range(first, first + int(os.environ.get("LOCAL_WORLD_SIZE", self.args.world_size)))
        return range(self.args.world_size)

    def _make_empty(self, folder: Path) -> None:
        """Make a new folder beneath `_incomplete`, in place of all that is there."""
        if self.args.should_save:
            shutil.rmtree(folder.parent, ignore_errors=True)
            folder.mkdir(parents=True)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in `transformers.Trainer`, but the folder holds a whole model or none that loads."""
        folder = Path(output_dir or self.args.output_dir)
        incomplete = folder if self._saves_checkpoint else folder / INCOMPLETE / "model"
        shares = self.is_fsdp_enabled or self.is_deepspeed_enabled  # then all ranks take part
        if not self._saves_checkpoint:
            self._make_empty(incomplete)
            if shares:
                self.accelerator.wait_for_everyone()
        if self.is_fsdp_enabled:
            # The whole model even where `SHARDED_STATE_DICT` saves the shards to resume from.
            self._save(str(incomplete), state_dict=self.accelerator.get_state_dict(self.model))
        else:
            super().save_model(str(incomplete), _internal_call=True)
        if self._saves_checkpoint:
            return
        if shares:
            self.accelerator.wait_for_everyone()
        if self.args.should_save:
            complete_model(incomplete, folder)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        model = self.accelerator.unwrap_model(self.model)
        if state_dict is not None:
            fold_reward_tokens(model, state_dict)
        super()._save(output_dir, state_dict)
        if is_peft_model(model) and self.args.should_save:
            save_configuration(model.get_base_model(), output_dir or self.args.output_dir)
        if self.auxiliary_loss is not None and self.args.should_save:
            self.auxiliary_loss.save(output_dir or self.args.output_dir)

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | list[str] | None = None,
        tags: str | list[str] | None = None,
        **kwargs: object,
    ) -> None:
        """Write the card of the run so far into the output folder, see [`write_model_card`]."""
        if self.is_world_process_zero():
            datasets = [dataset_name] if isinstance(dataset_name, str) else dataset_name or self.dataset_names
            more_tags = [tags] if isinstance(tags, str) else tags or []
            name = model_name or Path(self.args.output_dir).name
            write_model_card(self, name, datasets, [*self._tag_names, *more_tags])


def _check_types(model: object, args: object, processing_class: object) -> None:
    """Raise a `TypeError` for what other trainers take and this one does not."""
    if isinstance(model, str):
        raise TypeError(
            f"`model` is the string {model!r}; pass a loaded model, `EditRewardModel.from_pretrained(...)` or, to "
            "start from a vision-language model, `EditRewardModel.from_backbone(...)`."
        )
    if not isinstance(args, EditRewardTrainingArguments):
        raise TypeError(f"`args` must be `EditRewardTrainingArguments`, got `{type(args).__name__}`.")
    if processing_class is None:
        raise TypeError("`processing_class` is missing; pass the model's `EditRewardProcessor`.")


def _select_trained(
    model: EditRewardModel,
    args: EditRewardTrainingArguments,
    peft_config: PeftConfig | None,
    reward_token_ids: Sequence[int],
) -> None:
    """Have the weights trained that the arguments or the adapter name, once it is sure that they can be."""
    if peft_config is None:
        select_trained(model, reward_token_ids, args)
    else:
        check_base(model)
        if args.freeze:
            raise ValueError(f"`freeze` {args.freeze} goes without an adapter: it trains nothing else anyway.")
    rates, deepspeed = learning_rates(args), args.deepspeed_plugin
    if rates and deepspeed is not None and "optimizer" in deepspeed.deepspeed_config:
        raise ValueError(
            f"`{next(iter(rates))}_learning_rate` has no effect on the optimizer of the DeepSpeed config. Take "
            "`optimizer` out of it: the training arguments make one."
        )
