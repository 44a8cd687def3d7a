"""Callbacks of the trainer: the progress bar, early stopping, and what happens around logging and at the end."""

from collections.abc import Callable, Mapping
from typing import Any

from transformers import (
    EarlyStoppingCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import DefaultFlowCallback


class RewardProgressCallback(ProgressCallback):
    """The Trainer's progress bar with loss and accuracy in it, and a line for each evaluation.

    The Trainer's own prints every log in full; here those are in the trackers and in `trainer_state.json`.
    """

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, object] | None = None,
        **kwargs: object,
    ) -> None:
        if not state.is_world_process_zero or self.training_bar is None or logs is None:
            return
        if "loss" in logs:
            shown = {name: f"{logs[name]:.3f}" for name in ("loss", "accuracy") if name in logs}
            self.training_bar.set_postfix(shown)
            return
        evaluated = [name for name in logs if name.startswith("eval") and "pair_loss" not in name]
        if found := [name for end in ("loss", "accuracy") for name in evaluated if name.endswith(end)]:
            metrics = ", ".join(f"{name} {logs[name]:.4g}" for name in found)
            self.training_bar.write(f"step {state.global_step}: {metrics}")


class RewardEarlyStoppingCallback(EarlyStoppingCallback):
    """Early stopping that passes over evaluations of the sets whose metric does not decide, and counts on in a resumed
    run."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        states: Any = state.stateful_callbacks  # by name, whatever its annotation says
        saved = (states or {}).get(type(self).__name__)
        if isinstance(saved, Mapping):  # of the checkpoint, where the run is resumed from one
            self.early_stopping_patience_counter = saved["attributes"]["early_stopping_patience_counter"]

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        metric = args.metric_for_best_model.removeprefix("eval_")
        if f"eval_{metric}" in (metrics or {}):
            super().on_evaluate(args, state, control, metrics, **kwargs)


class TrainingFlowCallback(TrainerCallback):
    """Logs before every evaluation and save; evaluates and calibrates the final model.

    With a log at every save a resumed run counts on exactly, and no time of evaluation or saving is in the rates.

    Args:
        finish_training: Called at the end of training.
    """

    def __init__(self, finish_training: Callable[[], None]) -> None:
        self.finish_training = finish_training

    def add_to(self, callbacks: list[TrainerCallback]) -> None:
        """Add it after the callback that decides when to evaluate and save, and before trackers, which end a run."""
        decides = next(i for i, callback in enumerate(callbacks) if isinstance(callback, DefaultFlowCallback))
        callbacks.insert(decides + 1, self)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        control.should_log |= control.should_save or control.should_evaluate

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        control.should_log |= control.should_save or control.should_evaluate

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.finish_training()
