"""`Reward`: what it takes, how it groups, what it says of failures."""

import base64
import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from editreward import load_scorer
from editreward.groups import CandidateScore, GroupScores, Unscored
from editreward.rewards import Ensemble, Reward, RewardError, Shaping, self_check
from editreward.rewards.verl_omni import source_of
from editreward.simulation import simulate_group
from tests.helpers.scorers import ColourScorer, painted

EDITS = [painted(10, 20, 2), painted(200, 100, 4), painted(0, 40, 6)]


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def reward(scorer=None, **options):
    return Reward(scorer or ColourScorer(), check=False, **options)


def rate(made, edited, sources=None, instructions=None):
    count = len(edited)
    return made(sources=sources or [painted(1)] * count, edited=edited, instructions=instructions or [""] * count)


def test_rewards_are_float32_in_the_order_of_the_edits_with_details_by_name():
    batch = rate(reward(), EDITS)
    assert batch.values.dtype == np.float32 and batch.values.tolist() == [15.0, 150.0, 20.0]
    assert batch.details["instruction_following"].tolist() == [10, 200, 0]
    assert batch.details["visual_quality_std"].tolist() == [2, 4, 6]
    assert batch.details["reward_std"].tolist() == pytest.approx(
        [2 / math.sqrt(2), 4 / math.sqrt(2), 6 / math.sqrt(2)]
    )
    assert all("log" not in name for name in batch.details)
    assert batch.complete() == [15.0, 150.0, 20.0]


ARRAY = np.stack([np.asarray(image) for image in EDITS])
FORMS = {
    "PIL": EDITS,
    "bytes": [png(image) for image in EDITS],
    "base64": [base64.b64encode(png(image)).decode() for image in EDITS],
    "data URI": ["data:image/png;base64," + base64.b64encode(png(image)).decode() for image in EDITS],
    "uint8 HWC": list(ARRAY),
    "uint8 CHW": list(np.moveaxis(ARRAY, -1, 1)),
    "uint8 NHWC": ARRAY,
    "uint8 NCHW tensor": torch.from_numpy(ARRAY).permute(0, 3, 1, 2),
    "float NCHW": np.moveaxis(ARRAY / np.float32(255), -1, 1),
    "float NCHW tensor": torch.from_numpy(ARRAY).permute(0, 3, 1, 2) / 255,
    "bfloat16 tensor": (torch.from_numpy(ARRAY).permute(0, 3, 1, 2) / 255).bfloat16(),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_image_gives_the_same_rewards(form, tmp_path):
    tolerance = 1.0 if "bfloat16" in form else 1e-3
    assert rate(reward(), FORMS[form]).complete() == pytest.approx([15.0, 150.0, 20.0], abs=tolerance)


def test_files_are_read(tmp_path):
    for index, image in enumerate(EDITS):
        image.save(tmp_path / f"{index}.png")
    files = [str(tmp_path / f"{index}.png") for index in range(3)]
    assert rate(reward(), files).complete() == [15.0, 150.0, 20.0]


def test_floats_outside_of_0_to_1_fail_with_their_true_range():
    images = torch.stack([torch.full((3, 12, 16), 0.5), torch.full((3, 12, 16), -1.0)])
    batch = rate(reward(), images)
    assert batch.values[0] == pytest.approx(127.5, abs=0.6) and math.isnan(batch.values[1])
    assert "edited image 1" in batch.reasons[1] and "-1" in batch.reasons[1]


def test_groups_are_found_by_source_and_instruction_not_by_the_text_alone():
    scorer = ColourScorer()
    first, second = painted(1), painted(2)
    sources = [first, second, png(first), first, [first, second]]
    batch = rate(reward(scorer), [painted(i) for i in range(5)], sources, ["a", "a", "a", "b", "a"])
    assert [(len(group.edited), group.instruction) for group in scorer.seen] == [
        (1, "a"),
        (1, "a"),
        (1, "a"),  # a file and the image of it may differ by more than their pixels
        (1, "b"),
        (1, "a"),
    ]
    assert batch.group_of.tolist() == [0, 1, 2, 3, 4]
    same = rate(reward(scorer), EDITS, [painted(1), painted(1), painted(2)], ["a"] * 3)
    assert same.group_of.tolist() == [0, 0, 1]


def test_scattered_edits_of_a_group_are_scored_together_and_come_back_in_their_places():
    scorer = ColourScorer()
    sources = [painted(1), painted(2)] * 2
    batch = rate(reward(scorer), [painted(i) for i in (10, 20, 30, 40)], sources)
    assert [len(group.edited) for group in scorer.seen] == [2, 2]
    assert batch.complete() == [5, 10, 15, 20]


class MadeOnAccess:
    """A sequence that makes each item when it is asked for, as a column of `datasets` or an array of texts does."""

    def __init__(self, make, count):
        self.make, self.count = make, count

    def __len__(self):
        return self.count

    def __iter__(self):
        return map(self.make, range(self.count))


@pytest.mark.parametrize("as_text", [False, True])
def test_sources_that_are_made_on_access_are_not_taken_for_each_other(as_text):
    texts = [base64.b64encode(png(painted(i))).decode() for i in range(20)]
    sources = MadeOnAccess((lambda i: "".join(texts[i])[:-1] + texts[i][-1]) if as_text else painted, 20)
    assert rate(reward(), [painted(1)] * 20, sources).group_of.tolist() == list(range(20))


def test_a_source_that_cannot_be_read_costs_its_own_edit_alone(tmp_path):
    long = base64.b64encode(b"x" * 2000).decode()  # of a file's name the system says that it is too long
    batch = rate(reward(), [EDITS[0]] * 4, [long, tmp_path / "missing.png", str(tmp_path / "missing.png"), tmp_path])
    assert batch.values[0] == 15.0 and sorted(batch.reasons) == [1, 2, 3]
    assert "source 1 cannot be read" in batch.reasons[1] and "missing.png" in batch.reasons[1]


def test_verl_omnis_source_that_is_missing_is_a_value_error(tmp_path):
    with pytest.raises(ValueError, match=r"the source cannot be read: .*missing\.png"):
        source_of({"image": "missing.png"}, str(tmp_path), 512)


def test_what_fails_is_nan_with_a_reason_and_costs_nobody_else_a_reward():
    edited = [EDITS[0], b"no image", painted(255, 255, 255), EDITS[1], "???", EDITS[2]]
    instructions = ["", "", "", "fail", "", ""]
    batch = rate(reward(), edited, instructions=instructions)
    assert batch.values[[0, 5]].tolist() == [15.0, 20.0]
    assert np.isnan(batch.values).tolist() == [False, True, True, True, True, False]
    assert "not an image" in batch.reasons[1]
    assert batch.reasons[2] == "white is no colour" and batch.reasons[3] == "it was told to fail"
    assert "edited image 4 is neither base64 nor a file" in batch.reasons[4]
    assert np.isnan(batch.details["reward"]).tolist() == [False, True, True, True, True, False]
    with pytest.raises(RewardError, match="4 of 6 edits have no reward; edit 1: "):
        batch.complete()


def test_a_scorer_that_answers_nan_fails_for_that_group_alone():
    class Broken(ColourScorer):
        def __call__(self, groups):
            return [GroupScores([math.nan]), *super().__call__(groups[1:])]

    batch = rate(reward(Broken()), EDITS[:2], [painted(1), painted(2)])
    assert math.isnan(batch.values[0]) and "nan" in batch.reasons[0] and batch.values[1] == 150


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="2 in sources, 3 in edited, 3 in instructions"):
        rate(reward(), EDITS, EDITS[:2])
    with pytest.raises(TypeError, match="`instructions` has one entry per edit"):
        reward()(sources=EDITS, edited=EDITS, instructions="abc")
    with pytest.raises(TypeError, match="Instruction 0 is a NoneType"):
        rate(reward(), EDITS, instructions=[None, "", ""])
    with pytest.raises(TypeError):
        reward()(EDITS, EDITS, ["", "", ""])  # source and edit are easily swapped: by name only


def test_no_edits_give_no_rewards():
    batch = reward()(sources=[], edited=[], instructions=[])
    assert batch.values.shape == (0,) and batch.reasons == {}


def test_groups_without_spread_are_named():
    batch = rate(reward(), [EDITS[0], EDITS[0], EDITS[1], EDITS[2]], [painted(1)] * 2 + [painted(2)] * 2, ["x"] * 4)
    assert batch.zero_spread == {0: "x"}
    assert rate(reward(), EDITS[:1]).zero_spread == {}


def test_several_scorers_are_one_reward():
    other = ColourScorer(name="other", dimensions=("visual_quality",))
    batch = rate(reward([ColourScorer(), other], shaping=Shaping(ensemble=Ensemble("mean"))), EDITS)
    assert batch.complete() == [15.0, 150.0, 20.0]
    assert batch.details["1/reward"].tolist() == [15.0, 150.0, 20.0]
    with pytest.raises(ValueError, match="There are 2 scorers"):
        reward([ColourScorer(), other])


def test_the_bundled_model_passes_the_self_check_and_rewards_are_its_scores():
    scorer = load_scorer()
    group = simulate_group(3, candidates=3)
    edited = [candidate.image for candidate in group.candidates]
    batch = Reward(scorer)(sources=[group.source] * 3, edited=edited, instructions=[group.instruction] * 3)
    expected = [one.reward for one in scorer.score(group.source, edited, group.instruction)]
    assert batch.complete() == pytest.approx(expected, abs=1e-5)


def test_a_scorer_that_ignores_its_images_or_the_instruction_is_refused():
    class Constant(ColourScorer):
        def __call__(self, groups):
            return [GroupScores([0.5] * len(group.edited)) for group in groups]

    class Deaf(ColourScorer):
        def _candidate(self, extra, image):
            return super()._candidate(0, image)

    class Failing(ColourScorer):
        def __call__(self, groups):
            return [Unscored("out of order") for _ in groups]

    class Blind(ColourScorer):
        def _candidate(self, extra, image):
            return CandidateScore({}, float(extra))

    for scorer, told in ((Constant, "a black image"), (Blind, "a black image"), (Deaf, "the instruction of another")):
        with pytest.raises(ValueError, match=told):
            Reward(scorer())
        Reward(scorer(), check=False)
    with pytest.raises(ValueError, match="scored none .* out of order"):
        self_check(Failing())


def test_an_image_is_not_changed():
    image = Image.new("RGBA", (8, 8), (9, 8, 7, 255))
    rate(reward(), [image])
    assert image.mode == "RGBA"
