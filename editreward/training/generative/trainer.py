"""Trainer of generative scorers: TRL's `SFTTrainer` on answers about edit groups, evaluated by how they score."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset, IterableDataset
from peft import PeftConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, TrainOutput
from transformers.utils import ModelOutput, logging
from trl import SFTTrainer

from editreward.groups.rows import GroupRow
from editreward.scorers.generative.loading import Writer
from editreward.scorers.generative.options import OWN_PROMPTS
from editreward.scorers.prompts import PromptSet
from editreward.training.bad_rows import BadRows
from editreward.training.checkpoints import checkpoint_to_resume
from editreward.training.generative.arguments import GenerativeTrainingArguments
from editreward.training.generative.card import write_card
from editreward.training.generative.collator import AnswerCollator, without_lists
from editreward.training.generative.evaluation import score_rows, scoring_metrics
from editreward.training.identity import check_identity, run_identity, save_identity

logger = logging.get_logger(__name__)


SETTINGS = ("answers_per_group", "score_weight", "max_pixels", "seed")
"""Those that make another training of it; see `editreward.training.identity`."""


class GenerativeTrainer(SFTTrainer):
    """Trains a vision-language model to answer prompt sets.

    Args:
        writer: the model, with tokenizer and image processor.
        args: of the run.
        sets: prompt sets by the names or files of `args.prompts`.
        train_dataset: edit groups, images not decoded or made on the fly.
        eval_dataset: the same, or several by label.
        peft_config: adapter to train; None trains the model.

    Raises:
        ValueError: what is evaluated cannot be, see `eval_score_groups`.
    """

    def __init__(
        self,
        writer: Writer,
        args: GenerativeTrainingArguments,
        sets: Mapping[str, PromptSet],
        train_dataset: Dataset | IterableDataset,
        eval_dataset: Dataset | IterableDataset | dict[str, Dataset | IterableDataset] | None = None,
        peft_config: PeftConfig | None = None,
    ) -> None:
        self.writer, self.sets = writer, sets
        self.dataset_names: list[str] = []
        self.base_name = writer.model.name_or_path
        self.bad_rows = BadRows(args.output_dir)
        self.evaluated: dict[str, float] = {}
        chosen = list(sets.values())
        super().__init__(
            model=writer.model,
            args=args,
            data_collator=AnswerCollator(writer, chosen, args.answers_per_group, args.max_pixels, args.on_bad_row),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=writer.tokenizer,
            peft_config=peft_config,
        )
        if args.eval_score_groups and (self.is_fsdp_enabled or self.is_deepspeed_enabled):
            raise ValueError(
                "A model in pieces cannot be asked: add `--eval_score_groups 0`, and score what the run has saved."
            )

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """Train, as `transformers.Trainer` does.

        Args:
            resume_from_checkpoint: See `checkpoint_to_resume`.
            kwargs: As there.

        Raises:
            ValueError: The checkpoint is of other settings, prompts or data.
        """
        checkpoint = checkpoint_to_resume(self.args.output_dir, resume_from_checkpoint)
        self._identity = run_identity(self.args, self.train_dataset, SETTINGS)
        self._identity |= {f"prompts {name}": prompts.fingerprint for name, prompts in self.sets.items()}
        if checkpoint is not None:
            check_identity(Path(checkpoint), self._identity)
        output: TrainOutput = super().train(checkpoint, **kwargs)
        return output

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            run_dir = Path(self._get_output_dir(trial))
            save_identity(run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}", self._identity)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, ModelOutput]:
        """Mean over the tokens of answers of `-log p`, those of scores weighted by `score_weight`.

        An answer's weights are scaled so that they add up to the number of its tokens.
        """
        mode = "train" if self.model.training else "eval"
        inputs, skipped, used = without_lists(inputs)
        self.bad_rows.add(mode, skipped, used)
        is_number = inputs.pop("is_number")[:, 1:]
        outputs = model(**inputs, use_cache=False, fused_lm_head=True)
        mask = outputs.label_mask
        weights = answer_weights(mask, is_number & mask, self.args.score_weight)
        total = mask.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        loss = -(outputs.log_probs * weights).sum() / total.clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        self._note(mode, inputs, outputs, is_number & mask)
        return (loss, outputs) if return_outputs else loss

    def _note(self, mode: str, inputs: Mapping[str, Tensor], outputs: Any, is_number: Tensor) -> None:
        """Shares of all tokens and of tokens of scores that are the likeliest ones, for the next log."""
        right = outputs.is_top1.to(torch.float32) * outputs.label_mask
        sums = torch.stack(
            [
                right.sum(),
                outputs.label_mask.sum(),
                (right * is_number).sum(),
                is_number.sum(),
                inputs["attention_mask"].sum(),
            ]
        )
        right_tokens, tokens, right_scores, scores, read = self.accelerator.gather(sums[None]).sum(0).tolist()
        if tokens:
            self._metrics[mode]["mean_token_accuracy"].append(right_tokens / tokens)
        if scores:
            self._metrics[mode]["score_token_accuracy"].append(right_scores / scores)
        if mode == "train":
            self._total_train_tokens += int(read)
            self._metrics[mode]["num_tokens"] = [self._total_train_tokens]

    def evaluation_loop(
        self, dataloader: DataLoader, *args: object, metric_key_prefix: str = "eval", **kwargs: object
    ) -> EvalLoopOutput:
        """As in `transformers.Trainer`; then some groups are scored, and the metrics get `accuracy` and others."""
        output: EvalLoopOutput = super().evaluation_loop(
            dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs
        )
        if self.args.eval_score_groups:
            rows = list(islice(rows_of(dataloader.dataset), self.args.eval_score_groups))
            found = self.scores(rows)
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        self.evaluated |= {name: value for name, value in output.metrics.items() if isinstance(value, float)}
        return output

    def scores(self, rows: Sequence[GroupRow]) -> dict[str, float]:
        """Metrics of the scores of groups, which the processes share out; of several prompt sets with their names."""
        place, count = self.accelerator.process_index, self.accelerator.num_processes
        metrics: dict[str, float] = {}
        for prompts in self.sets.values():
            scored = score_rows(self.writer, prompts, rows[place::count], self.args.max_pixels)
            found = scoring_metrics(gather_object(scored))
            prefix = f"{prompts.name.replace('-', '_')}_" if len(self.sets) > 1 else ""
            metrics |= {f"{prefix}{name}": value for name, value in found.items()}
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in `transformers.Trainer`, with what makes the folder a scorer: prompt sets and image processor."""
        super().save_model(output_dir, _internal_call)
        if not self.is_world_process_zero():
            return
        folder = Path(output_dir or self.args.output_dir)
        self.writer.image_processor.save_pretrained(folder)
        for place, (file, prompts) in enumerate(self.sets.items()):
            shutil.copyfile(file, folder / (f"prompts-{prompts.name}.yaml" if place else OWN_PROMPTS))

    def create_model_card(self, *args: object, **kwargs: object) -> None:
        """Write the card of the run so far into the output folder."""
        if self.is_world_process_zero():
            write_card(self, Path(self.args.output_dir))

    def end(self) -> None:
        """List the rows that were left out."""
        self.bad_rows.gather(self.is_world_process_zero())
        if self.is_world_process_zero():
            self.bad_rows.report()


def answer_weights(mask: Tensor, is_number: Tensor, score_weight: float) -> Tensor:
    """Weights of the tokens of answers, `(answers, tokens)`, whose sum over an answer is its number of tokens.

    Args:
        mask: tokens of answers.
        is_number: those of their scores.
        score_weight: of these, where others have 1.
    """
    weights = mask.float() + (score_weight - 1) * is_number.float()
    return weights * mask.sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1e-9)


def rows_of(dataset: Dataset | IterableDataset) -> Iterator[GroupRow]:
    """The rows of a dataset in its order."""
    if hasattr(dataset, "__getitem__"):
        yield from (dataset[place] for place in range(len(dataset)))
    else:
        yield from dataset
