import numpy as np
import pytest
import torch
import yaml

from editreward.cli import main
from editreward.data.sources import load_groups
from editreward.editors.tiny.pipeline import TinyEditPipeline
from editreward.editors.tiny.transformer import LEAST_SIGMA
from tests.helpers.image_editors import picture, tiny_editor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("editor")
    tiny_editor().save_pretrained(path)
    return path


def test_a_saved_editor_makes_the_same_edits(folder):
    first, second = tiny_editor(), TinyEditPipeline.from_pretrained(folder)
    images, prompts = [picture(0), picture(1)], ["Make the star red.", "把红色的圆形去掉。"]
    made, again = (
        one(images, prompts, num_inference_steps=3, generator=torch.Generator().manual_seed(1)).images
        for one in (first, second)
    )
    assert [one.tobytes() for one in made] == [one.tobytes() for one in again]
    assert made[0].size == (16, 16) and made[0].tobytes() != made[1].tobytes()


def test_an_edit_does_not_depend_on_its_neighbours():
    pipeline = tiny_editor()
    images, prompts = (
        [picture(0), picture(1)],
        ["Remove it.", "Make the large yellow star at the top left much smaller."],
    )
    noise = torch.randn(2, 3, 16, 16)
    together = pipeline(images, prompts, latents=noise, output_type="np").images
    alone = pipeline(images[0], prompts[0], latents=noise[:1], output_type="np").images
    assert np.abs(together[0] - alone[0]).max() <= 1.5 / 255


def test_the_velocity_leads_to_the_clean_edit():
    transformer = tiny_editor().transformer
    noisy, source = torch.randn(2, 2, 3, 16, 16)
    ids, mask = torch.randint(0, 100, (2, 5)), torch.ones(2, 5, dtype=torch.long)
    for sigma in (0.8, LEAST_SIGMA):
        level = torch.full((2,), sigma)
        velocity = transformer(noisy, level, source, ids, mask).sample
        clean = transformer.clean(noisy, level, source, ids, mask)
        assert torch.allclose(noisy - sigma * velocity, clean, atol=1e-5)


def test_a_closed_gate_keeps_the_source():
    transformer = tiny_editor().transformer
    with torch.no_grad():
        transformer.to_pixels.bias[-64:] = -1e4
    source = torch.rand(1, 3, 16, 16)
    ids, mask = torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 3, dtype=torch.long)
    clean = transformer.clean(torch.randn(1, 3, 16, 16), torch.tensor([0.5]), source, ids, mask)
    assert torch.equal(clean, source)


def test_as_many_images_as_prompts():
    with pytest.raises(ValueError, match="There are 2 images and 1 prompts"):
        tiny_editor()([picture(0), picture(1)], "Remove it.")


def test_it_is_an_editor_of_generate(folder, tmp_path):
    editors = {
        "editors": [
            {
                "name": "tiny",
                "seeds": [1, 2],
                "pipeline": "editreward.editors.tiny.pipeline.TinyEditPipeline",
                "checkpoint": str(folder),
                "call": {"num_inference_steps": 2},
            }
        ]
    }
    (tmp_path / "editors.yaml").write_text(yaml.safe_dump(editors))
    words = ["generate", "--instructions", "simulated", "--split", "test", "--limit", "2"]
    words += ["--editors", str(tmp_path / "editors.yaml"), "--output", str(tmp_path / "out")]
    assert main(words) == 0
    rows = load_groups(tmp_path / "out", "test")
    assert [len(row["candidates"]) for row in rows] == [2, 2]
