"""Ablation studies: plan the runs, train and evaluate each once, report with intervals over seeds."""

from research.ablation.plan import Ablation, Arm, Evaluation, Run, Study, read_ablation

__all__ = ["Ablation", "Arm", "Evaluation", "Run", "Study", "read_ablation"]
