"""What is compared on benchmarks: the reward model as a scorer, chance, likeness to the source, CLIP and LPIPS."""

import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, Qwen2Config
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from editreward import EditRewardScorer
from editreward.groups import EditGroup, EditPair, GroupScores, Unscored
from editreward.scorers.baselines import (
    LIKENESSES,
    CoinPerPair,
    RandomScores,
    SourceLikeness,
    pixel_likeness,
    psnr,
    ssim,
)
from editreward.scorers.fingerprints import content_hash
from editreward.scorers.perceptual import NEUTRAL_TEXT, Clip, Lpips
from editreward.simulation import simulate_groups
from tests.helpers.pictures import file_of, noise


def simulated(count: int = 3, candidates: int = 3) -> list[EditGroup]:
    return [
        EditGroup((file_of(g.source),), g.instruction, tuple(file_of(c.image) for c in g.candidates))
        for g in simulate_groups(count, "test", candidates=candidates, size=84)
    ]


@pytest.fixture(scope="module")
def model_scorer(random_model_dir):
    return EditRewardScorer.from_pretrained(random_model_dir, device="cpu")


def test_a_model_s_scores_depend_on_neither_the_order_of_candidates_nor_the_batch_around_them(model_scorer):
    groups = simulated()
    alone = [model_scorer([group])[0] for group in groups]
    together = model_scorer(groups[::-1])[::-1]
    order = [2, 0, 1]
    turned = model_scorer([EditGroup(g.sources, g.instruction, tuple(g.edited[i] for i in order)) for g in groups])
    single = [model_scorer([EditGroup(g.sources, g.instruction, g.edited[:1])])[0] for g in groups]
    spread = np.ptp([scores.overall for scores in alone])
    for a, b, c, d in zip(alone, together, turned, single, strict=True):
        columns = lambda s: {"overall": s.overall, **s.dimensions, **{f"std {n}": v for n, v in s.stds.items()}}  # noqa: E731
        for name, values in columns(a).items():
            assert np.allclose(columns(b)[name], values, atol=1e-4 * spread)
            assert np.allclose(columns(c)[name], [values[i] for i in order], atol=1e-4 * spread)
            assert np.allclose(columns(d)[name], values[:1], atol=1e-4 * spread)
        assert np.ptp(a.overall) > 1e-3 * spread
        preferred = np.array(a.preferences)
        assert np.allclose(preferred + preferred.T, 1) and np.allclose(np.diag(preferred), 0.5)
        assert np.allclose(np.array(c.preferences), preferred[np.ix_(order, order)], atol=1e-5)


def test_a_model_s_scores_are_those_of_the_library(model_scorer):
    (group,) = simulated(1)
    scores = model_scorer([group])[0]
    library = model_scorer.score(group.sources[0], list(group.edited), group.instruction)
    assert scores.overall == pytest.approx([score.reward for score in library])
    assert scores.dimensions["visual_quality"] == pytest.approx([score.visual_quality.mean for score in library])
    assert scores.stds["overall"] == pytest.approx([score.reward_std for score in library])
    first, second = group.edited[:2]
    expected = model_scorer.preference(group.sources[0], first, second, group.instruction)
    assert scores.preferences[0][1] == pytest.approx(expected)


def test_a_group_that_a_model_cannot_score_says_why_and_costs_no_other(model_scorer):
    good, other = simulated(2)
    bad = EditGroup(good.sources, good.instruction, (b"no image", good.edited[0]))
    first, failed, last = model_scorer([good, bad, other])
    assert isinstance(failed, GroupScores) and list(failed.unscored) == [0]
    assert failed.unscored[0].reason.startswith("edited[0] is not an image")
    assert len(first.overall) == len(last.overall) == 3
    # The other edit has the score that it has alone, and nothing to be compared with.
    alone = model_scorer([EditGroup(good.sources, good.instruction, good.edited[:1])])[0]
    assert failed.overall[1] == pytest.approx(alone.overall[0], rel=1e-5) and failed.ranks == [None, 1]
    assert failed.probabilities is None
    assert np.isnan(failed.preferences[0][1]) and failed.preferences[1][1] == pytest.approx(0.5)
    for group in (
        EditGroup((b"no image",), good.instruction, good.edited),
        EditGroup(good.sources, " ", good.edited),
        EditGroup(good.sources, good.instruction, (b"no image", b"none either")),
    ):
        assert isinstance(model_scorer([group])[0], Unscored)


def test_the_fingerprint_is_that_of_weights_configuration_processor_and_precision(random_model_dir):
    def fingerprint(change=None, **options):
        scorer = EditRewardScorer.from_pretrained(random_model_dir, device="cpu", **options)
        if change:
            change(scorer)
        return scorer.fingerprint

    def weights(scorer):
        with torch.no_grad():
            scorer.model.heads.mlps[0][-1].bias[0] += 1e-6

    def config(scorer):
        scorer.model.config.calibration = {n: {"intercept": 2.0, "slope": 1.0} for n in scorer.model.config.dimensions}

    def processor(scorer):
        scorer.processor.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": 56 * 56}

    same = fingerprint()
    assert same == fingerprint()
    different = [fingerprint(weights), fingerprint(config), fingerprint(processor), fingerprint(dtype="bfloat16")]
    assert len({same, *different}) == 5


def test_random_scores_hang_on_content_and_seed_only():
    groups = [EditGroup((b"source",), f"edit {i}", (b"a", b"b", b"c")) for i in range(400)]
    scores = [s.overall for s in RandomScores()(groups)]
    assert [s.overall for s in RandomScores()(groups[::-1])][::-1] == scores
    turned = RandomScores()([EditGroup(g.sources, g.instruction, g.edited[::-1]) for g in groups])
    assert [s.overall[::-1] for s in turned] == scores
    assert RandomScores(seed=1)(groups[:1])[0].overall != scores[0]
    flat = np.ravel(scores)
    assert len(set(flat)) == 1200 and abs(flat.mean() - 0.5) < 0.03 and abs(flat.var() - 1 / 12) < 0.01
    assert content_hash("ab", "c") != content_hash("a", "bc") != content_hash(b"a", "bc")


@pytest.mark.parametrize("ties", [True, False])
def test_a_coin_gives_every_verdict_its_share_and_contradicts_itself(ties):
    pairs = [EditPair((b"s",), str(i), b"a", b"b", ties=ties) for i in range(4000)]
    answers = CoinPerPair().compare(pairs)
    assert CoinPerPair().compare(pairs[::-1])[::-1] == answers
    shares = {verdict: number / 4000 for verdict, number in Counter(answers).items()}
    expected = {1.0: 0.25, -1.0: 0.25, 0.0: 0.5} if ties else {1.0: 0.5, -1.0: 0.5}
    assert shares == pytest.approx(expected, abs=0.03)
    turned = CoinPerPair().compare([EditPair(p.sources, p.instruction, p.second, p.first, ties=ties) for p in pairs])
    agree = np.mean([a == -b for a, b in zip(answers, turned, strict=True)])
    assert agree == pytest.approx(sum(share**2 for share in expected.values()), abs=0.03)


def test_a_broken_image_costs_a_coin_its_own_pair():
    whole = EditPair((b"s",), "edit", b"a", b"b")
    pairs = [replace(whole, second=b""), whole, replace(whole, sources=("no such file.png",))]
    first, second, third = CoinPerPair().compare(pairs)
    assert first == Unscored("the image is missing") and second in (1.0, -1.0)
    assert isinstance(third, Unscored) and "no such file.png" in third.reason


def test_likeness_is_computed_as_defined():
    source, edited = noise(1), noise(2)
    a, b = (np.asarray(image, dtype=float) for image in (source, edited))
    assert psnr(source, edited) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255))
    assert psnr(source, source) == 100
    changes = [abs(x - y) for x, y in zip(a.flat, b.flat, strict=True)]
    assert pixel_likeness(source, edited) == pytest.approx(-np.mean(changes))
    assert ssim(source, source) == pytest.approx(1) and abs(ssim(source, edited)) < 0.3
    # Uniform images: the variances are 0, which leaves (2 m n + C1) / (m^2 + n^2 + C1).
    m, n, c = 100, 120, (0.01 * 255) ** 2
    flat = [Image.new("RGB", (16, 16), (level,) * 3) for level in (m, n)]
    assert ssim(*flat) == pytest.approx((2 * m * n + c) / (m * m + n * n + c))


@pytest.mark.parametrize("name", LIKENESSES)
def test_likeness_falls_with_distance_and_sees_no_instruction(name):
    base = noise(0, (8, 6)).resize((64, 48), Image.Resampling.BICUBIC)
    spoilt = [Image.blend(base, noise(5, base.size), share) for share in (0.0, 0.15, 0.6)]
    group = EditGroup((file_of(base),), "edit", tuple(map(file_of, spoilt)))
    scorer = SourceLikeness(name)
    (scores,) = scorer([group])
    assert scores.overall == sorted(scores.overall, reverse=True) and scores.overall[0] > scores.overall[2]
    assert scorer([EditGroup(group.sources, "another", group.edited)]) == [scores]
    larger = EditGroup(group.sources, "edit", (file_of(base.resize((128, 96))), group.edited[2]))
    assert np.diff(scorer([larger])[0].overall)[0] < 0
    broken = scorer([EditGroup(group.sources, "edit", (b"broken", group.edited[1]))])[0]
    assert list(broken.unscored) == [0] and broken.overall[1] == scores.overall[1]
    assert isinstance(scorer([EditGroup((b"broken",), "edit", group.edited)])[0], Unscored)
    assert len({SourceLikeness(other).fingerprint for other in LIKENESSES}) == len(LIKENESSES)


def test_a_picture_too_small_for_ssim_is_unscored_not_scored_otherwise():
    tiny = file_of(noise(1, (8, 8)))
    assert SourceLikeness("ssim")([EditGroup((tiny,), "edit", (tiny,))])[0].scored == {}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A tiny CLIP of random weights with a tokenizer of single letters."""
    folder = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    tokenizer = CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[])
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPConfig(
        text_config={**small, **ends, "vocab_size": len(tokens), "max_position_embeddings": 20},
        vision_config={**small, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessorPil(**size).save_pretrained(folder)
    return folder


@pytest.fixture
def clip_group():
    return EditGroup((file_of(noise(1)),), "make it red", (file_of(noise(2)), file_of(noise(1)), file_of(noise(3))))


def test_clip_similarity_is_the_model_s_own_logit(clip_folder, clip_group):
    clip = Clip.from_pretrained(str(clip_folder))
    (scores,) = clip([clip_group])
    inputs = clip.processor(text=[clip_group.instruction], images=[noise(2), noise(1), noise(3)], return_tensors="pt")
    with torch.no_grad():
        logits = clip.model(**inputs).logits_per_image[:, 0] / clip.model.logit_scale.exp()
    assert scores.overall == pytest.approx(logits.tolist(), abs=1e-6) and np.ptp(scores.overall) > 1e-3


def test_clip_direction_is_that_of_the_change_against_that_of_the_instruction(clip_folder, clip_group):
    clip = Clip.from_pretrained(str(clip_folder), directional=True)
    (scores,) = clip([clip_group])
    inputs = clip.processor(
        text=[clip_group.instruction, NEUTRAL_TEXT],
        images=[noise(1), noise(2), noise(3)],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        output = clip.model(**inputs)
    images, texts = output.image_embeds.double().numpy(), output.text_embeds.double().numpy()
    wanted = texts[0] - texts[1]
    expected = [(i - images[0]) @ wanted / np.linalg.norm(i - images[0]) / np.linalg.norm(wanted) for i in images[1:]]
    assert [scores.overall[0], scores.overall[2]] == pytest.approx(expected, abs=1e-5)
    assert scores.overall[1] == 0  # nothing changed
    assert clip.fingerprint != Clip.from_pretrained(str(clip_folder)).fingerprint


def test_clip_cuts_long_instructions_and_refuses_what_is_no_clip(clip_folder, clip_group, tmp_path):
    long = EditGroup(clip_group.sources, "a" * 500, clip_group.edited)
    assert len(Clip.from_pretrained(str(clip_folder))([long])[0].overall) == 3
    with pytest.raises(ValueError, match="neither a folder nor can it be downloaded"):
        Clip.from_pretrained(str(tmp_path / "none"))
    Qwen2Config().save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="'qwen2', not a CLIP model"):
        Clip.from_pretrained(str(tmp_path / "other"))


def test_lpips_without_its_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(ValueError, match="pip install lpips"):
        Lpips()


def test_lpips_gets_images_from_minus_1_to_1_and_the_smallest_distance_wins(monkeypatch):
    """The network's weights cannot be had in tests: a distance with the package's interface stands in for it."""

    class Distance(torch.nn.Module):
        def __init__(self, net, verbose):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, first, second):
            assert first.shape == second.shape == (1, 3, 20, 24)
            assert first.min() >= -1 and first.max() <= 1 and first.max() > 0.9 and first.min() < -0.9
            return (first - second).abs().mean().reshape(1, 1, 1, 1)

    monkeypatch.setitem(sys.modules, "lpips", SimpleNamespace(LPIPS=Distance))
    monkeypatch.setattr("editreward.scorers.perceptual.versions", lambda *names: {})
    near = Image.blend(noise(1), noise(2), 0.2)
    (scores,) = Lpips()([EditGroup((file_of(noise(1)),), "edit", tuple(map(file_of, (noise(2), near, noise(1)))))])
    difference = np.abs(np.asarray(noise(1), float) - np.asarray(noise(2), float)).mean() / 127.5
    assert scores.overall[0] == pytest.approx(-difference, rel=1e-5) and scores.overall[2] == 0
    assert scores.overall == sorted(scores.overall)
