"""A run goes on with a checkpoint of its own settings and data only, and not at all once it is finished."""

import pytest
import torch

from editreward.training.checkpoints import checkpoint_to_resume
from editreward.training.identity import check_identity, run_identity, save_identity
from tests.helpers.backbones import build
from tests.helpers.trainers import as_dataset, make_arguments, make_row, make_rows, make_trainer


def identity_of(tmp_path, rows, **arguments):
    return run_identity(make_arguments(tmp_path, **arguments), as_dataset(rows))


def test_what_the_run_is_may_not_change_and_how_long_it_takes_may(tmp_path):
    rows = make_rows()
    save_identity(tmp_path, identity_of(tmp_path, rows))
    check_identity(tmp_path, identity_of(tmp_path, rows, max_steps=9, learning_rate=1e-3, logging_steps=3))
    with pytest.raises(ValueError, match="other settings: loss 'nll' became 'probit'.*Resume with those"):
        check_identity(tmp_path, identity_of(tmp_path, rows, loss="probit"))


@pytest.mark.parametrize("what", ["image", "score", "instruction", "number", "order"])
def test_data_that_changed_under_a_run_are_noticed(tmp_path, what):
    save_identity(tmp_path, identity_of(tmp_path, make_rows()))
    rows = make_rows()
    if what == "image":
        rows[1]["candidates"][0]["image"] = rows[0]["candidates"][0]["image"]
    elif what == "score":
        rows[1]["candidates"][0]["scores"]["visual_quality"] = 3.5
    elif what == "instruction":
        rows[2]["instruction"] += "!"
    elif what == "number":
        rows.append(make_row(9, [(4.0, 3.0), (1.0, 2.0)]))
    else:
        rows.reverse()
    with pytest.raises(ValueError, match="row"):
        check_identity(tmp_path, identity_of(tmp_path, rows))


@pytest.mark.parametrize("option", [{"pointwise_weight": 0.1}, {"pointwise_scale": 2.0}, {"rationale_weight": 0.1}])
def test_other_terms_of_the_loss_are_another_run(tmp_path, option):
    rows = make_rows()
    save_identity(tmp_path, identity_of(tmp_path, rows))
    with pytest.raises(ValueError, match=f"other settings: {next(iter(option))}"):
        check_identity(tmp_path, identity_of(tmp_path, rows, **option))


def test_preferences_that_were_annotated_anew_are_noticed(tmp_path):
    rows = make_rows()
    for place, order in enumerate([(0, 1), (1, 0)]):
        rows[0]["preferences"] = [{"chosen": order[0], "rejected": order[1], "weight": 1.0}]
        if place:
            with pytest.raises(ValueError, match="row 0"):
                check_identity(tmp_path, identity_of(tmp_path, rows))
        else:
            save_identity(tmp_path, identity_of(tmp_path, rows))


def test_a_checkpoint_of_an_earlier_version_is_taken_as_it_is(tmp_path):
    check_identity(tmp_path, identity_of(tmp_path, make_rows()))


@pytest.mark.slow
def test_resuming_a_finished_run_leaves_its_weights_as_they_are(tmp_path):
    settings = {"max_steps": 3, "save_strategy": "steps", "save_steps": 3, "learning_rate": 0.01}
    trainer = make_trainer(tmp_path, make_rows(), **settings)
    trainer.train()
    finished = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    for _ in range(2):
        again = make_trainer(tmp_path, make_rows(), build(head_dropout=0.0, seed=5), **settings)
        again.train(resume_from_checkpoint=True)
        assert again.state.global_step == 3
        assert checkpoint_to_resume(tmp_path, True).endswith("checkpoint-3")
        for name, value in again.model.state_dict().items():
            assert torch.equal(value, finished[name]), name
