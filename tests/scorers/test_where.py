"""Where something speaks against an edit: occlusion of any scorer, dense heads and gradients of reward models."""

import numpy as np
import pytest
import torch
from PIL import Image

from editreward import EditRewardScorer
from editreward.dense_heads import DenseHeads, DenseLayers
from editreward.groups import CandidateScore, DimensionScore, EditGroup, GroupScores, Unscored
from editreward.groups.where import ARTEFACT, NOT_AS_ASKED, UNASKED
from editreward.publishing.models import CardOptions, write_model
from editreward.scorers.baselines import decode
from editreward.scorers.loading import ModelError
from editreward.scorers.where import enlarged, where
from editreward.scorers.where_model import CellLogits, cell_logits, reasons_of, where_by_gradients
from editreward.simulation import simulate_group
from editreward.simulation.grounding import ATTRIBUTES, COMPARISONS, MISMATCHES
from editreward.training.dense import DenseLoss
from research import bundle_tiny
from tests.helpers.backbones import build

GROUP = simulate_group(0, candidates=2)
EDITS = EditGroup([GROUP.source], GROUP.instruction, [one.image for one in GROUP.candidates])


class FewRedPixels:
    """Scores the share of pixels that are not red."""

    dimensions = ("cleanness",)

    def __call__(self, groups):
        return [GroupScores(tuple(map(self.rate, group.edited))) for group in groups]

    def rate(self, image):
        pixels = np.asarray(decode(image), dtype=int)
        score = 1 - ((pixels[..., 0] > 200) & (pixels[..., 1] < 50)).mean()
        return CandidateScore({"cleanness": DimensionScore(score)}, score)


def test_occlusion_of_any_scorer_finds_the_patch_that_costs_score():
    source = Image.new("RGB", (120, 60), "blue")
    spotted, less, clean = source.copy(), source.copy(), Image.new("RGB", (120, 60), "green")
    spotted.paste("red", (80, 0, 100, 20))
    less.paste("red", (0, 50, 10, 60))
    maps = [
        found.map("cleanness")
        for found in where(FewRedPixels(), EditGroup([source], "blue", [spotted, less, clean]), 6)
    ]
    assert all(values.shape == (60, 120) for values in maps)
    assert maps[0].max() == pytest.approx(1, abs=0.05)
    assert np.unravel_index(maps[0].argmax(), maps[0].shape)[1] in range(80, 100)
    assert maps[1].max() == pytest.approx(0.5, abs=0.05) and maps[1][:, 40:].max() < 0.01
    assert maps[2].max() == 0
    (box,) = where(FewRedPixels(), EditGroup([source], "blue", [spotted]), 6)[0].boxes()
    assert 60 <= box.left <= 80 and 100 <= box.right <= 120 and box.top == 0


def test_what_cannot_be_scored_is_told():
    class Broken(FewRedPixels):
        def rate(self, image):
            return Unscored("the endpoint is gone")

    with pytest.raises(ValueError, match="the endpoint is gone"):
        where(Broken(), EDITS)
    with pytest.raises(ValueError, match="instruction is empty"):
        where(FewRedPixels(), EditGroup([GROUP.source], "", [GROUP.source]))


def test_a_broken_image_is_called_by_its_name(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    broken = str(tmp_path / "broken.png")
    with pytest.raises(ValueError, match=r"^source \('.*broken.png'\) is not an image"):
        where(FewRedPixels(), EditGroup([broken], "edit", [GROUP.source]))
    with pytest.raises(ValueError, match=r"^edited\[1\] \('.*broken.png'\) is not an image"):
        where(FewRedPixels(), EditGroup([GROUP.source], "edit", [GROUP.source, broken]))


def test_values_of_cells_stand_in_their_middles():
    cells = np.array([[0, 1], [0, 0]], dtype=np.float32)
    values = enlarged(cells, (8, 4))
    assert values.shape == (4, 8) and values[0, 6] == pytest.approx(1, abs=0.2) and values[3, 0] == 0


@pytest.fixture(scope="module")
def model_and_processor():
    torch.manual_seed(0)
    return build(head_dropout=0.0, pixels=112 * 112)


@pytest.fixture(scope="module")
def heads(model_and_processor):
    return DenseHeads(model_and_processor[0].config.hidden_size, DenseLayers.of(2)).eval()


def test_cells_of_the_heads_are_those_of_the_training_loss(model_and_processor, heads):
    model, processor = model_and_processor
    found = cell_logits(model, processor, heads, EDITS)
    loss = DenseLoss(heads, 1.0, 4)
    loss.watch(model)
    batch = processor.collate([processor.pack(GROUP.source, list(EDITS.edited), GROUP.instruction)])
    with torch.no_grad():
        model(**batch)
        inputs, states = loss._states.take()
        is_image = batch["input_ids"] == loss.image_token_id
        expected = heads(inputs[is_image], states, is_image, 3)
    for index, cells in enumerate(found, start=1):
        assert cells.comparisons.shape == (4, 4, len(COMPARISONS))
        for name in ("attributes", "comparisons", "mismatches"):
            assert getattr(cells, name).reshape(16, -1) == pytest.approx(
                getattr(expected, name)[0, index].numpy(), abs=1e-4
            )


def test_reasons_follow_from_what_the_heads_are_sure_of():
    def logits(names, *sure):
        return np.where(np.isin(names, sure), 20.0, -20.0).astype(np.float32)

    cells = CellLogits(
        np.stack([[logits(ATTRIBUTES), logits(ATTRIBUTES, "artefact blur", "severity 1")]] * 2),
        np.stack([[logits(COMPARISONS, "changed", "wrong"), logits(COMPARISONS, "to change")]] * 2),
        np.stack([[logits(MISMATCHES, "colour"), logits(MISMATCHES)]] * 2),
    )
    source = Image.new("RGB", (80, 80), "grey")
    edited = source.copy()
    edited.paste("red", (8, 8, 16, 16))
    edited.paste("white", (60, 60, 68, 68))
    reasons = reasons_of(cells, edited, source)
    for name in (NOT_AS_ASKED, UNASKED):
        assert reasons[name][12, 12] > 0.9 and reasons[name][70, 12] < 0.4 and reasons[name][:, 65:].max() < 0.1
    row, column = np.unravel_index(reasons[ARTEFACT].argmax(), (80, 80))
    assert 58 <= row < 70 and 58 <= column < 70 and reasons[ARTEFACT][:, :20].max() < 0.01
    of_background = CellLogits(cells.attributes, cells.comparisons, cells.mismatches * 0)
    of_background.mismatches[..., MISMATCHES.index("background")] = 20
    everywhere = reasons_of(of_background, edited, source)[NOT_AS_ASKED]
    assert everywhere[70, 12] == pytest.approx(everywhere[12, 12], abs=0.01)


def test_a_scorer_takes_heads_that_it_has_and_gradients_without(model_and_processor, heads, tmp_path):
    model, processor = model_and_processor
    scorer = EditRewardScorer(model, processor, dense_heads=heads)
    found = scorer.where(GROUP.source, list(EDITS.edited), GROUP.instruction)
    assert [one.method for one in found] == ["heads"] * 2
    for one in found:
        assert set(one.maps) == set(scorer.dimensions) and set(one.reasons) == {NOT_AS_ASKED, UNASKED, ARTEFACT}
        assert all(
            values.shape == (112, 112) and 0 <= values.min() <= values.max() <= 1 for values in one.maps.values()
        )
    two_sources = scorer.where([GROUP.source, GROUP.source], list(EDITS.edited), GROUP.instruction)
    assert [one.method for one in two_sources] == ["gradients"] * 2
    assert EditRewardScorer(model, processor).where(GROUP.source, [GROUP.source], "edit")[0].method == "gradients"


def test_heads_come_with_the_model(model_and_processor, heads, tmp_path):
    model, processor = model_and_processor
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert EditRewardScorer.from_pretrained(tmp_path, device="cpu").dense_heads is None
    heads.save(tmp_path)
    scorer = EditRewardScorer.from_pretrained(tmp_path, device="cpu")
    assert torch.equal(scorer.dense_heads.comparisons[1].weight, heads.comparisons[1].weight)
    DenseHeads(8, DenseLayers.of(2)).save(tmp_path)
    with pytest.raises(ModelError, match="dense heads are of width 8"):
        EditRewardScorer.from_pretrained(tmp_path, device="cpu")


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_gradients_say_what_tokens_take_from_a_score_to_first_order(kind):
    torch.manual_seed(0)
    model, processor = build(kind, head_dropout=0.0, pixels=112 * 112)
    edited = GROUP.source.copy()
    edited.paste("red", (0, 0, 40, 40))
    found = where_by_gradients(model.eval(), processor, EditGroup([GROUP.source], "edit", [edited, GROUP.source]))
    changed, same = (np.stack(list(one.maps.values())) for one in found)
    assert same.max() == 0  # nothing differs from the source
    assert changed.shape == (len(model.config.dimensions), 112, 112)
    assert changed.reshape(len(changed), -1).max(-1) == pytest.approx(1, abs=0.05)


def test_what_is_published_and_what_is_bundled_brings_the_heads(model_and_processor, heads, tmp_path, monkeypatch):
    model, processor = model_and_processor
    run = tmp_path / "run"
    model.save_pretrained(run)
    processor.save_pretrained(run)
    heads.save(run)
    write_model(str(run), tmp_path / "published", "org/tiny", CardOptions())
    assert torch.equal(DenseHeads.load(tmp_path / "published").request[1].weight, heads.request[1].weight)
    (run / "trainer_state.json").write_text('{"global_step": 1, "log_history": [{"step": 1}]}', encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["bundle_tiny", "--run", str(run), "--output", str(tmp_path / "bundled")])
    bundle_tiny.main()
    rounded = heads.request[1].weight.bfloat16().float()
    assert torch.equal(DenseHeads.load(tmp_path / "bundled").request[1].weight, rounded)
