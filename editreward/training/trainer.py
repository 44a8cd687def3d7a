"""The trainer: TRL's `RewardTrainer` with pair losses over packed edit groups."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from huggingface_hub import ModelCard
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_utils import EvalLoopOutput
from trl import RewardTrainer

from editreward.data.pairs import WeightedPairs, batch_pairs, batch_ties, training_pairs
from editreward.training.arguments import EditRewardTrainingArguments
from editreward.training.collator import EditGroupCollator, check_columns
from editreward.training.losses import LOSSES, pair_difference
from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor

# What the collator adds to the inputs of the model.
ANNOTATION = ("labels", "preferences", "preference_weight")

MODEL_CARD = """\
---
library_name: transformers
tags:
{tags}
---

# {name}

A reward model for instruction-guided image editing: given a source image, an instruction and edited images, it scores
each edit by {dimensions}, each as a Gaussian, and ranks the edits.

```python
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{hub_id}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{hub_id}", trust_remote_code=True)
rewards = model(**processor(source="source.png", edited=["a.png", "b.png"], instruction="...")).reward
```

Trained{data} with the loss `{loss}` (reduction `{loss_reduction}`, `dimension_weight` {dimension_weight}).
"""


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

    Metrics, also logged in training: `loss`; `pair_loss`, its first part, and with `dimension_weight` that of each
    dimension; `accuracy`, the share of pairs with different labels that the means order right, overall and per
    dimension; `margin`, the mean of reward(chosen) - reward(rejected); `std_*`, the mean standard deviation per
    dimension; `ties`, the share of pairs with equal labels. Each is over all pairs (candidates) since the last log, or
    of the evaluation set.
    """

    loss_is_scaled_for_ga = True
    _signature_columns: list[str] | None

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
    ) -> None:
        if isinstance(model, str):
            raise TypeError(
                f"`model` is the string {model!r}; pass a loaded model, `EditRewardModel.from_pretrained(...)` or, to "
                "start from a vision-language model, `EditRewardModel.from_backbone(...)`."
            )
        if not isinstance(args, EditRewardTrainingArguments):
            raise TypeError(f"`args` must be `EditRewardTrainingArguments`, got `{type(args).__name__}`.")
        if processing_class is None:
            raise TypeError("`processing_class` is missing; pass the model's `EditRewardProcessor`.")
        processing_class.check_config(model.config)
        self.dimensions = list(model.config.dimensions)
        if args.ties in ("disentangle", "dimension") and len(self.dimensions) < 2:
            raise ValueError(f"`ties` {args.ties!r} needs two dimensions, the model has only {self.dimensions[0]!r}.")
        # The parts of the loss: the dimension whose scores decide (None: their sum) and the weight.
        self._terms: list[tuple[int | None, float]] = [(None, 1.0)]
        if args.dimension_weight > 0:
            weight = args.dimension_weight / len(self.dimensions)
            self._terms += [(index, weight) for index in range(len(self.dimensions))]
        # Per mode, sums of (numerator, denominator) of each metric since it was last reported, on this rank.
        self._sums: dict[str, dict[str, Tensor]] = {"train": {}, "eval": {}}

        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator or EditGroupCollator(processing_class),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self.loss = LOSSES[args.loss]()
        # `get_batch_samples` counts what the loss is divided by; the model takes no such argument.
        self.model_accepts_loss_kwargs = False

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in `transformers.Trainer`; the model's config takes the loss's link and loses its calibration."""
        self.model.config.preference_link = self.loss.link
        # Fitted to the scores of the model as it was.
        self.model.config.calibration = None
        return super().train(*args, **kwargs)

    # Data

    def _prepare_dataset(
        self, dataset: Dataset | IterableDataset, processing_class: Any, args: Any, dataset_name: str
    ) -> Dataset | IterableDataset:
        # Rows stay as they are until the collator. One is read, since a dataset with a transform hides its columns.
        first = next(iter(dataset), None)
        if first is None:
            raise ValueError(f"The {dataset_name} dataset is empty.")
        check_columns(first, f"The {dataset_name} dataset")
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns = ["group_id", "source_images", "instruction", "candidates", "preferences"]

    def _prepare_inputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # DeepSpeed runs have every float cast to half precision here, in which equal sums of scores may differ.
        annotation = {name: inputs[name].to(self.args.device) for name in ANNOTATION}
        return {**super()._prepare_inputs(inputs), **annotation}

    # Loss

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], Tensor]:
        """The micro-batches of an optimizer step, and the sum of weights of each term of its loss over all ranks."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        total = torch.zeros(len(self._terms), device=device)
        for batch in batches:
            total += self._total_weights(self._pairs(batch)).to(device)
        return batches, self.accelerator.reduce(total, "sum")

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """This micro-batch's share of the loss of the optimizer step.

        Args:
            model (`nn.Module`): The model, as wrapped for training.
            inputs (`dict`): A batch of the collator.
            return_outputs (`bool`, defaults to `False`): Return the model's outputs too.
            num_items_in_batch (`torch.Tensor` of shape `(terms,)`, *optional*):
                From `get_batch_samples`. Without it, the batch is taken for a whole step.
        """
        outputs, pairs, losses = self._forward(model, inputs)
        if model.training:
            self._add("train", self._statistics(outputs, inputs, pairs, losses))
        if num_items_in_batch is None:
            total_weights, ranks = self._total_weights(pairs), 1
        else:
            # The gradients of the ranks are averaged; theirs is a sum.
            total_weights, ranks = num_items_in_batch, self.accelerator.num_processes
        loss = torch.zeros((), device=outputs.reward.device)
        for (_, weight), total, pair, pair_loss in zip(self._terms, total_weights, pairs, losses, strict=True):
            # Without a usable pair this is the sum of an empty tensor: zero, with the graph of the whole model.
            loss = loss + weight * ranks * (pair.weight * pair_loss).sum() / total.where(total > 0, 1)
        return (loss, outputs) if return_outputs else loss

    def _forward(self, model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Any, list[WeightedPairs], list[Tensor]]:
        """Outputs of the model ([`EditRewardOutput`]); for each term of the loss its pairs and the loss of each."""
        outputs = model(**{name: value for name, value in inputs.items() if name not in ANNOTATION})
        pairs = self._pairs(inputs)
        # The aggregate comes last, as the pairs' dimension -1.
        mean = torch.cat([outputs.mean, outputs.reward[:, None]], dim=-1)
        std = torch.cat([outputs.log_std.exp(), outputs.reward_std[:, None]], dim=-1)
        losses = [self.loss(*pair_difference(mean, std, pair), pair.tie) for pair in pairs]
        return outputs, pairs, losses

    def _pairs(self, inputs: Mapping[str, Tensor]) -> list[WeightedPairs]:
        """The pairs of each term of the loss, their weights scaled as the reduction asks."""
        group_index = inputs["group_index"]
        terms = []
        for dimension, _ in self._terms:
            pairs = training_pairs(
                inputs["labels"],
                group_index,
                dimension,
                self.args.ties,
                inputs["preferences"],
                inputs["preference_weight"],
                self.args.tie_weight,
            )
            if self.args.loss_reduction == "group":
                group = group_index[pairs.winner]
                of_group = pairs.weight.new_zeros(len(inputs["input_ids"])).index_add(0, group, pairs.weight)
                pairs = pairs._replace(weight=pairs.weight / of_group[group])
            terms.append(pairs)
        return terms

    def _total_weights(self, pairs: list[WeightedPairs]) -> Tensor:
        return torch.stack([term.weight.sum() for term in pairs])

    # Metrics

    @torch.no_grad()
    def _statistics(
        self,
        outputs: Any,
        inputs: dict[str, Tensor],
        pairs: list[WeightedPairs],
        losses: list[Tensor],
    ) -> dict[str, Tensor]:
        """Numerator and denominator of each metric in each group of the batch, by its name, shape `(groups, 2)`."""
        labels, group_index = inputs["labels"], inputs["group_index"]

        def by_group(candidates: Tensor, numerator: Tensor, denominator: Tensor | None = None) -> Tensor:
            numerator = numerator.to(outputs.reward.dtype)
            denominator = torch.ones_like(numerator) if denominator is None else denominator.to(numerator.dtype)
            sums = numerator.new_zeros(len(inputs["input_ids"]), 2)
            return sums.index_add(0, group_index[candidates], torch.stack([numerator, denominator], dim=-1))

        statistics = {}
        for (dimension, _), term, pair_loss in zip(self._terms, pairs, losses, strict=True):
            statistics[self._metric("pair_loss", dimension)] = by_group(
                term.winner, term.weight * pair_loss, term.weight
            )

        annotated = inputs["preferences"], inputs["preference_weight"]
        winner, loser, *_ = training_pairs(labels, group_index, None, "drop", *annotated)
        margin = outputs.reward[winner] - outputs.reward[loser]
        statistics["accuracy"] = by_group(winner, margin > 0)
        statistics["margin"] = by_group(winner, margin)
        tied, _ = batch_ties(labels, group_index)
        is_tie = torch.cat([torch.zeros_like(winner), torch.ones_like(tied)])
        statistics["ties"] = by_group(torch.cat([winner, tied]), is_tie)

        candidates = torch.arange(len(labels), device=labels.device)
        for dimension in range(len(self.dimensions)):
            winner, loser = batch_pairs(labels, group_index, dimension)
            mean = outputs.mean[:, dimension]
            statistics[self._metric("accuracy", dimension)] = by_group(winner, mean[winner] > mean[loser])
            std = outputs.log_std[:, dimension].exp()
            statistics[self._metric("std", dimension)] = by_group(candidates, std)
        return statistics

    def _metric(self, name: str, dimension: int | None) -> str:
        return name if dimension is None else f"{name}_{self.dimensions[dimension]}"

    def _add(self, mode: str, statistics: dict[str, Tensor]) -> None:
        for name, by_group in statistics.items():
            self._sums[mode][name] = self._sums[mode].get(name, 0) + by_group.cpu().double().sum(dim=0)

    def _pop_metrics(self, mode: str) -> dict[str, float]:
        """The metrics of what was added since the last call. One without a single pair to show is left out."""
        sums, self._sums[mode] = self._sums[mode], {}
        metrics = {name: (pair[0] / pair[1]).item() for name, pair in sums.items() if pair[1] > 0}
        parts = [(self._metric("pair_loss", dimension), weight) for dimension, weight in self._terms]
        if any(name in metrics for name, _ in parts):
            metrics["loss"] = sum(weight * metrics.get(name, 0.0) for name, weight in parts)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.model.training and self._sums["train"]:
            if self.accelerator.num_processes > 1:
                stacked = torch.stack(list(self._sums["train"].values()))
                summed = self.accelerator.reduce(stacked.to(self.accelerator.device), "sum").cpu()
                self._sums["train"] = dict(zip(self._sums["train"], summed, strict=True))
            # The Trainer's own `loss` is the mean over the steps.
            logs.update({name: value for name, value in self._pop_metrics("train").items() if name != "loss"})
        super().log(logs, start_time)

    # Evaluation

    def evaluation_loop(
        self,
        dataloader: torch.utils.data.DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        self._sums["eval"] = {}
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        output.metrics.update({f"{metric_key_prefix}_{k}": value for k, value in self._pop_metrics("eval").items()})
        return output

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[None, None, None]:
        """Add a batch to the metrics. The loop gets nothing: its means over batches are not means over pairs."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs, pairs, losses = self._forward(model, inputs)
        statistics = self._statistics(outputs, inputs, pairs, losses)
        # Of all ranks, without the groups that fill up the last batch.
        gathered = self.accelerator.gather_for_metrics(torch.stack(list(statistics.values()), dim=1))
        self._add("eval", dict(zip(statistics, gathered.unbind(dim=1), strict=True)))
        return None, None, None

    # Saving

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: str | list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write a short model card into the output folder; TRL's own shows how to use a text classifier."""
        if not self.is_world_process_zero():
            return
        name = model_name or Path(self.args.output_dir).name
        more_tags = [tags] if isinstance(tags, str) else tags or []
        if dataset_name and Path(dataset_name).exists():
            dataset_name = None  # a path on this machine tells a reader nothing
        card = MODEL_CARD.format(
            tags="\n".join(f"- {tag}" for tag in dict.fromkeys([*self._tag_names, *more_tags])),
            name=name,
            dimensions=", ".join(self.dimensions).replace("_", " "),
            hub_id=self.hub_model_id or name,
            loss=self.args.loss,
            loss_reduction=self.args.loss_reduction,
            dimension_weight=self.args.dimension_weight,
            data=f" on `{dataset_name}`" if dataset_name else "",
        )
        ModelCard(card).save(Path(self.args.output_dir) / "README.md")
