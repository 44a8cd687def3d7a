"""What the data loader makes of the annotation: the terms of the loss and the pairs of the metrics."""

import pickle

import numpy as np
import pytest
import torch

from editreward.groups.pairs import batch_ties, training_pairs
from editreward.training import EditGroupCollator
from editreward.training.losses import LOSSES, NllLoss
from editreward.training.metrics import EvaluatedGroup
from editreward.training.terms import LossTerms, TermCollator
from tests.helpers.backbones import build_processor
from tests.helpers.trainers import DIMENSIONS, make_row, make_rows, make_trainer
from tests.helpers.waits import Waits


def batch_of(rows):
    return EditGroupCollator(build_processor())(rows)


def test_terms_are_the_pairs_of_the_loss_overall_and_of_each_dimension():
    batch = batch_of(make_rows())
    labels, groups = batch["labels"].numpy(), batch["group_index"].numpy()
    preferences = batch["preferences"].numpy(), batch["preference_weight"].numpy()
    terms = LossTerms(NllLoss(ties="disentangle").samples, DIMENSIONS, dimension_weight=0.6)
    assert terms.weights == [(None, 1.0), (0, 0.3), (1, 0.3)]
    made = terms(batch)
    for (dimension, _), samples in zip(terms.weights, made["terms"], strict=True):
        expected = training_pairs(labels, groups, dimension, "disentangle", *preferences)
        for found, column in zip(samples, expected, strict=True):
            assert np.array_equal(found.numpy(), column)
    assert made["tied"].tolist() == batch_ties(labels, groups)[0].tolist()
    assert len(made["ranked"]) == 3


def test_each_group_weighs_the_same_under_the_group_reduction():
    rows = [make_row(0, [(4.0, 4.0), (2.0, 2.0), (1.0, 1.0)]), make_row(1, [(4.0, 3.0), (2.0, 2.0)])]
    batch = batch_of(rows)
    (samples,) = LossTerms(NllLoss().samples, DIMENSIONS, reduction="group")(batch)["terms"]
    group = batch["group_index"][samples.winner]
    assert len(samples.weight) == 4
    assert [samples.weight[group == g].sum().item() for g in (0, 1)] == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("name", LOSSES)
def test_batches_without_annotation_have_terms_without_samples(name):
    batch = batch_of([make_row(0, [(None, None), (None, None)])])
    for reduction in ("pair", "group"):
        made = LossTerms(LOSSES[name]().samples, DIMENSIONS, 1.0, reduction)(batch)
        assert [len(term.weight) for term in made["terms"]] == [0, 0, 0]
        assert all(term.candidate.dtype == torch.long for term in made["terms"])


def test_the_data_loader_makes_the_terms_and_the_step_makes_none(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path, make_rows(), dimension_weight=1.0)
    batch = next(iter(trainer.get_train_dataloader()))
    assert len(batch["terms"]) == 3
    pickle.loads(pickle.dumps(TermCollator(trainer.data_collator, trainer.terms)))  # for workers that are spawned

    def refuse(*args):
        raise AssertionError("made again")

    expected = trainer.compute_loss(trainer.model.eval(), trainer._prepare_inputs(batch)).item()
    monkeypatch.setattr(trainer.terms, "samples_of", refuse)
    _, totals = trainer.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
    found = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch), num_items_in_batch=totals)
    assert found.item() == pytest.approx(expected)


def test_a_step_waits_for_no_gpu_between_the_vision_tower_and_the_gradients(tmp_path, monkeypatch):
    # The expectations of `nll` choose a quadrature for each pair, for which they wait.
    trainer = make_trainer(tmp_path, make_rows(), loss="probit", dimension_weight=1.0, loss_reduction="group")
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    features = trainer.model.encode_images(batch["pixel_values"], batch["image_grid_thw"])
    monkeypatch.setattr(trainer.model, "encode_images", lambda *images: features)
    with Waits() as waits:
        _, totals = trainer.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
        loss = trainer.compute_loss(trainer.model.eval(), batch, num_items_in_batch=totals)
        outputs, losses = trainer._forward(trainer.model, batch)
        statistics = trainer._statistics(outputs, batch, losses, outputs.reward.new_zeros(0), [])
        trainer._sums["train"].add(statistics)
        loss.backward()
    assert waits.names == []


class Hinge(NllLoss):
    """A loss of the test's own."""

    link = "probit"

    def forward(self, mean, std, tie=None):
        return (1 - mean).relu() + 0 * std


class Widest:
    """An evaluator: the largest difference of two rewards in a group."""

    names = ("widest",)

    def __call__(self, groups):
        assert all(isinstance(group, EvaluatedGroup) for group in groups)
        return {"widest": max(float(np.ptp(group.reward)) for group in groups)}


def test_a_loss_and_evaluators_can_be_objects(tmp_path):
    rows = make_rows()
    options = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer = make_trainer(
        tmp_path,
        rows,
        eval_rows=rows,
        loss_object=Hinge(ties="disentangle"),
        evaluators=[Widest()],
        metric_for_best_model="widest",
        **options,
    )
    trainer.train()
    entry = next(entry for entry in trainer.state.log_history if "eval_widest" in entry)
    assert entry["eval_widest"] > 0 and trainer.state.best_metric > 0
    assert trainer.model.config.preference_link == "probit"
    batch = trainer._prepare_inputs(trainer.data_collator(rows))
    with torch.no_grad():
        output = trainer.model.eval()(
            **{name: batch[name] for name in trainer.processing_class.model_input_names if name in batch}
        )
        loss = trainer.compute_loss(trainer.model, batch)
    pairs = batch["terms"][0]
    margins = output.reward[pairs.winner] - output.reward[pairs.loser]
    expected = ((1 - margins).relu() * pairs.weight).sum() / pairs.weight.sum()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    trainer.create_model_card()
    assert "| loss | Hinge |" in (tmp_path / "README.md").read_text()
