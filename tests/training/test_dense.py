"""Dense targets, their losses in closed form, and the auxiliary loss of the trainer."""

import math

import pytest
import torch
from transformers import Trainer

from editreward.dense_heads import HEADS_FILE, RARE, DenseHeads, DenseLayers, DenseLogits
from editreward.simulation import simulate_group
from editreward.simulation.grounding import ASKED, ATTRIBUTES, COMPARISONS, MISMATCHES, REQUEST, request_values
from editreward.training import EditRewardTrainer
from editreward.training import trainer as trainer_module
from editreward.training.dense import (
    TO_CHANGE_WEIGHT,
    DenseLoss,
    asked_loss,
    binary_loss,
    dense_losses,
    dense_targets,
)
from tests.helpers.backbones import build
from tests.helpers.trainers import as_dataset, make_arguments

GROUPS = [simulate_group(seed, candidates=3, near_misses=0.5) for seed in range(3)]
SIDE = 4
VALUES = sum(map(len, REQUEST.values()))


def test_targets_have_a_place_for_every_cell_of_every_image() -> None:
    targets = dense_targets(GROUPS, SIDE)
    for name, names in (("attributes", ATTRIBUTES), ("asked", ASKED), ("comparisons", COMPARISONS)):
        assert targets[name].shape == (3, 4, SIDE * SIDE, len(names))
    assert targets["mismatches"].shape == (3, 4, SIDE * SIDE, len(MISMATCHES))
    assert targets["request"].tolist() == [request_values(group.task).tolist() for group in GROUPS]


def test_losses_of_heads_that_know_nothing_are_those_of_a_coin() -> None:
    targets = dense_targets(GROUPS, SIDE)
    zeros = {name: torch.zeros(targets[name].shape) for name in ("attributes", "asked", "comparisons", "mismatches")}
    found = dense_losses(DenseLogits(torch.zeros(3, VALUES), **zeros), targets)
    coin = {"attributes": ATTRIBUTES, "asked": ASKED, "comparisons": COMPARISONS, "mismatches": MISMATCHES}
    for name, names in coin.items():
        assert found[name].item() == pytest.approx(math.log(2) * len(names), rel=1e-5), name
    said = [
        math.log(len(values))
        for group in GROUPS
        for values, value in zip(REQUEST.values(), request_values(group.task), strict=True)
        if value >= 0
    ]
    assert found["request"].item() == pytest.approx(sum(said) / 3, rel=1e-5)


def test_losses_of_heads_that_know_all_are_zero() -> None:
    targets = dense_targets(GROUPS, SIDE)
    right = {
        name: targets[name].float().nan_to_num(0.5) * 200 - 100
        for name in ("attributes", "asked", "comparisons", "mismatches")
    }
    request = torch.zeros(3, VALUES)
    start = 0
    for part, values in enumerate(REQUEST.values()):
        for row in range(3):
            if (value := int(targets["request"][row, part])) >= 0:
                request[row, start + value] = 100
        start += len(values)
    for value in dense_losses(DenseLogits(request, **right), targets).values():
        assert value.item() == pytest.approx(0, abs=1e-5)


def test_cells_to_change_weigh_more() -> None:
    attributes = torch.zeros(1, 1, 2, len(ATTRIBUTES), dtype=torch.bool)
    asked = torch.zeros(1, 1, 2, len(ASKED), dtype=torch.bool)
    asked[0, 0, 0, 3] = True  # the first cell is to change
    logits = torch.full(asked.shape, -50.0)
    assert asked_loss(logits, asked, attributes).item() == pytest.approx(
        50 * TO_CHANGE_WEIGHT / (1 + TO_CHANGE_WEIGHT)
    )


def test_unknown_cells_count_for_nothing() -> None:
    truth = torch.tensor([[1.0, 0.0], [torch.nan, 0.0], [torch.nan, torch.nan]])
    logits = torch.tensor([[-20.0, -20.0], [99.0, 30.0], [5.0, 5.0]])
    assert binary_loss(logits, truth).item() == pytest.approx(20 + 30 / 2, rel=1e-5)


def test_heads_come_back_from_their_file(tmp_path) -> None:
    heads = DenseHeads(16, DenseLayers.of(7))
    assert heads.layers == DenseLayers(request=2, source=3, edited=4, comparison=5)
    heads.save(tmp_path)
    again = DenseHeads.load(tmp_path)
    assert again.layers == heads.layers
    assert all(
        torch.equal(a, b) for a, b in zip(heads.state_dict().values(), again.state_dict().values(), strict=True)
    )
    with pytest.raises(FileNotFoundError, match="no dense_heads"):
        DenseHeads.load(tmp_path / "nowhere")


@pytest.mark.parametrize("on_the_hub", [False, True])
def test_heads_are_also_read_from_where_earlier_versions_saved_them(tmp_path, monkeypatch, on_the_hub) -> None:
    def download(name: str, file: str, **options: object) -> str | None:
        assert (name, options["revision"]) == ("org/model", "v1")
        return str(tmp_path / file) if (tmp_path / file).is_file() else None

    monkeypatch.setattr("editreward.dense_heads.cached_file", download)
    name = "org/model" if on_the_hub else tmp_path
    assert DenseHeads.find(name, revision="v1") is None
    earlier, heads = (DenseHeads(16, DenseLayers.of(7)) for _ in range(2))
    earlier.save(tmp_path)
    (tmp_path / HEADS_FILE).rename(tmp_path / "dense_heads.safetensors")
    assert torch.equal(DenseHeads.load(name, revision="v1").request[1].weight, earlier.request[1].weight)
    heads.save(tmp_path)
    assert torch.equal(DenseHeads.load(name, revision="v1").request[1].weight, heads.request[1].weight)
    assert not list(tmp_path.glob("*.safetensors"))
    heads.remove(tmp_path)
    assert DenseHeads.find(name, revision="v1") is None


def rows():
    return [{**group.to_row(), "simulation": group} for group in GROUPS]


def make_trainer(folder, weight):
    torch.manual_seed(0)
    model, processor = build(head_dropout=0.0, pixels=112 * 112)
    loss = None if weight is None else DenseLoss(DenseHeads(model.config.hidden_size, DenseLayers.of(2)), weight, SIDE)
    trainer = EditRewardTrainer(
        model=model,
        args=make_arguments(folder),
        train_dataset=as_dataset(rows()),
        processing_class=processor,
        auxiliary_loss=loss,
    )
    return trainer, trainer._prepare_inputs(trainer.data_collator(rows()))


def test_dense_losses_are_refused_for_sharded_models(tmp_path, monkeypatch) -> None:
    usual = Trainer.create_accelerator_and_postprocess

    def sharded(self):
        usual(self)
        self.is_fsdp_enabled, self.accelerator.state.fsdp_plugin = True, None

    monkeypatch.setattr(Trainer, "create_accelerator_and_postprocess", sharded)
    monkeypatch.setattr(trainer_module, "configure_fsdp", lambda *_: None)
    with pytest.raises(ValueError, match="with FSDP or ZeRO-3 set `--dense_weight 0`"):
        make_trainer(tmp_path, 0.5)
    make_trainer(tmp_path, None)


def test_dense_losses_are_added_with_their_weight_and_reach_the_backbone(tmp_path) -> None:
    values = {}
    for weight in (None, 0.0, 0.5):
        trainer, batch = make_trainer(tmp_path, weight)
        loss = trainer.compute_loss(trainer.model, batch)
        if weight == 0.5:
            trainer.model(**{k: v for k, v in batch.items() if k in trainer.processing_class.model_input_names})
            dense = sum(trainer.auxiliary_loss(batch, batch["auxiliary"]).values()).item()
            loss.backward()
            layer = trainer.model.backbone.language_model.layers[0]
            assert layer.mlp.down_proj.weight.grad.norm() > 0
            assert all(not parameter.requires_grad for parameter in trainer.auxiliary_loss.heads.parameters())
        values[weight] = loss.item()
    assert values[0.0] == pytest.approx(values[None], rel=1e-6)
    assert values[0.5] == pytest.approx(values[None] + 0.5 * dense, rel=1e-5)


def test_rows_without_their_truth_are_refused(tmp_path) -> None:
    loss = DenseLoss(DenseHeads(8, DenseLayers.of(2)), 1.0, SIDE)
    with pytest.raises(ValueError, match="simulated"):
        loss.targets([group.to_row() for group in GROUPS])


def test_heads_stand_beside_the_trained_model_and_go_with_it(tmp_path) -> None:
    trainer, _ = make_trainer(tmp_path, 0.5)
    trainer.save_model(str(tmp_path / "model"))
    heads = trainer.auxiliary_loss.heads
    again = DenseHeads.load(tmp_path / "model")
    assert torch.equal(again.mismatches[1].weight, heads.mismatches[1].weight)
    assert [path.name for path in (tmp_path / "model").glob("*.safetensors")] == ["model.safetensors"]
    without, _ = make_trainer(tmp_path, None)
    without.save_model(str(tmp_path / "model"))
    assert DenseHeads.find(tmp_path / "model") is None


def test_a_file_of_other_heads_is_named(tmp_path) -> None:
    heads = DenseHeads(16, DenseLayers.of(7))
    heads.request[1] = torch.nn.Linear(16, 3)
    heads.save(tmp_path, torch.bfloat16)
    with pytest.raises(ValueError, match=HEADS_FILE):
        DenseHeads.load(tmp_path)


def test_heads_of_more_worlds_begin_with_what_earlier_ones_learnt() -> None:
    torch.manual_seed(0)
    earlier = DenseHeads(16, DenseLayers.of(7)).eval()
    both = DenseHeads(16, DenseLayers.of(7), ("shapes", "collage")).eval()
    both.begin_with(earlier)
    states = {layer: torch.randn(1, 12, 16) for layer in range(7)}
    is_image = torch.tensor([[False] * 4 + [True] * 8])
    before, after = (
        heads(torch.randn(8, 16, generator=torch.Generator().manual_seed(1)), states, is_image, 2)
        for heads in (earlier, both)
    )
    for name, logits in (("attributes", after.attributes), ("asked", after.asked)):
        names = getattr(both.vocabulary, name)
        columns = [names.index(known) for known in getattr(earlier.vocabulary, name)]
        torch.testing.assert_close(logits[..., columns], getattr(before, name))
    torch.testing.assert_close(after.mismatches, before.mismatches)
    assert both.attributes[1].bias[both.vocabulary.attributes.index("shape apple")] == RARE
    said = both.output_names()["request"]
    columns = [said.index(known) for known in earlier.output_names()["request"]]
    torch.testing.assert_close(after.request[..., columns], before.request)
    new, old = (heads.request[1].weight for heads in (both, earlier))
    shapes = old[[n for n, name in enumerate(earlier.output_names()["request"]) if name.startswith("target shape: ")]]
    torch.testing.assert_close(new[said.index("target shape: apple")], shapes.mean(0))
    back = DenseHeads(16, DenseLayers.of(7)).eval()
    back.begin_with(both)
    torch.testing.assert_close(back.request[1].weight, earlier.request[1].weight)
