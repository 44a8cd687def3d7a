import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import FluxTransformer2DModel, QwenImageTransformer2DModel

from editreward.editors.adapters import FluxKontextAdapter, adapter_for, join, repeat
from editreward.editors.arguments import EditorTrainingArguments
from editreward.editors.rollouts import noise_of, sample
from editreward.editors.trainer import EditorTrainer, add_lora
from tests.helpers.image_editors import SIZE, flux_kontext, picture, qwen_image_edit, tiny_editor

ROOT = Path(__file__).parents[2]
INSTRUCTIONS = ["Make the red star blue.", "Remove the heart."]


@pytest.fixture(scope="module", params=["tiny", "flux", "qwen"])
def adapter(request):
    if request.param == "tiny":
        return adapter_for(tiny_editor(), 16, 1.0)
    return adapter_for(flux_kontext() if request.param == "flux" else qwen_image_edit(), SIZE, 2.5)


def own_images(adapter, source, instruction, noise):
    """What the pipeline itself makes of a source, of an instruction and of noise."""
    name = type(adapter.pipeline).__name__
    call = {"image": source, "prompt": instruction, "latents": noise[None], "num_inference_steps": 4}
    if name == "FluxKontextPipeline":
        call |= {"height": SIZE, "width": SIZE, "max_area": SIZE**2, "_auto_resize": False, "guidance_scale": 2.5}
    elif name == "QwenImageEditPipeline":
        call |= {"height": SIZE, "width": SIZE, "true_cfg_scale": 2.5, "negative_prompt": " "}
    return adapter.pipeline(**call).images[0]


def test_samples_are_those_of_the_pipeline(adapter, monkeypatch):
    # Qwen's pipeline makes sources of a megapixel.
    monkeypatch.setattr(
        "diffusers.pipelines.qwenimage.pipeline_qwenimage_edit.calculate_dimensions", lambda *_: (SIZE, SIZE, None)
    )
    sources = [picture(0), picture(1)]
    conditions = adapter.encode(sources, INSTRUCTIONS)
    made = sample(adapter, adapter.transformer, conditions, [5, 6], steps=4)
    noise = noise_of(adapter.latent_shape, [5, 6])
    for place, image in enumerate(made):
        own = own_images(adapter, sources[place], INSTRUCTIONS[place], noise[place])
        assert np.abs(np.asarray(image, dtype=int) - np.asarray(own, dtype=int)).max() <= 1
    assert np.asarray(made[0]).std() > 0 and made[0] != made[1]


def test_latents_of_an_image_become_the_image_again_for_the_tiny_editor():
    adapter = adapter_for(tiny_editor(), 16, 1.0)
    image = picture(3, 16)
    assert adapter.images(adapter.latents([image]))[0].tobytes() == image.tobytes()
    latents = adapter.latents([image])
    assert latents.shape[1:] == adapter.latent_shape


def test_batches_of_conditions_can_be_joined(adapter):
    sources = [picture(0), picture(1)]
    together = adapter.encode(sources, INSTRUCTIONS)
    apart = join([adapter.encode([source], [text]) for source, text in zip(sources, INSTRUCTIONS, strict=True)])
    noisy, level = torch.randn(2, *adapter.latent_shape), torch.tensor([0.9, 0.4])
    with torch.no_grad():
        first, second = (adapter.velocity(adapter.transformer, noisy, level, one) for one in (together, apart))
    assert torch.allclose(first, second, atol=1e-4)
    assert {len(one) for one in repeat(together, 3).values()} == {6}


def test_what_cannot_be_trained_is_named():
    from diffusers import DDPMScheduler

    pipeline = flux_kontext()
    with pytest.raises(ValueError, match="multiple of 4"):
        adapter_for(pipeline, 30, 1.0)
    pipeline.text_encoder_2 = None
    with pytest.raises(ValueError, match="FluxKontextPipeline has no text_encoder_2"):
        adapter_for(pipeline, SIZE, 1.0)
    pipeline = tiny_editor()
    pipeline.scheduler = DDPMScheduler()
    with pytest.raises(ValueError, match="DDPMScheduler is none of flow matching"):
        adapter_for(pipeline, 16, 1.0)
    with pytest.raises(ValueError, match="no adapter for object"):
        adapter_for(object(), 16, 1.0)


def lora_parameters(transformer, rank):
    """docs/editors.md: r (a + b) for each adapted layer from a to b."""
    targets = tuple(f".{name}" for name in FluxKontextAdapter.lora_targets)
    layers = [m for n, m in transformer.named_modules() if isinstance(m, torch.nn.Linear) and n.endswith(targets)]
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers)


@pytest.mark.parametrize("build", [flux_kontext, qwen_image_edit])
def test_lora_trains_as_many_parameters_as_the_documented_formula_says(build):
    transformer = build().transformer
    expected = lora_parameters(transformer, 4)
    add_lora(transformer, 4, 0, FluxKontextAdapter.lora_targets)
    trained = [one for one in transformer.parameters() if one.requires_grad]
    assert sum(one.numel() for one in trained) == expected
    optimizer = torch.optim.AdamW([one.requires_grad_(True) for one in (one.float() for one in trained)])
    for group in optimizer.param_groups:
        for one in group["params"]:
            one.grad = torch.zeros_like(one)
    optimizer.step()
    kept = [one for group in optimizer.param_groups for one in group["params"]]
    moments = [value for state in optimizer.state.values() for value in state.values() if value.ndim]
    assert sum(one.numel() * 4 for one in (*kept, *(one.grad for one in kept), *moments)) == 16 * expected


@pytest.mark.parametrize("build", [flux_kontext, qwen_image_edit])
def test_trained_lora_loads_with_the_scale_that_it_was_trained_with(build, tmp_path):
    pipeline = build()
    other = copy.deepcopy(pipeline.transformer)
    args = EditorTrainingArguments(output_dir=str(tmp_path), lora_rank=4, lora_alpha=12)
    trainer = EditorTrainer(adapter_for(pipeline, SIZE, 1.0), args, Accelerator(cpu=True), False)
    with torch.no_grad():
        for one in trainer.trained.values():
            one.normal_(std=0.1)
    trainer.save_editor()
    pipeline.transformer = other
    pipeline.load_lora_weights(tmp_path / "editor")
    scales = [one.scaling["default_0"] for one in other.modules() if getattr(one, "scaling", None)]
    assert len(scales) > 3 and set(scales) == {3.0}


@pytest.mark.parametrize(
    ("transformer", "options", "row"),
    [
        (FluxTransformer2DModel, {"guidance_embeds": True}, "| 11.9 G | 4.9 G | 2,560 | 33.6 GB | 0.8 GB |"),
        (QwenImageTransformer2DModel, {}, "| 20.4 G | 8.4 G | 2,500 | 57.7 GB | 1.5 GB |"),
    ],
)
def test_the_documented_sizes_are_those_of_the_published_architectures(transformer, options, row):
    with torch.device("meta"):
        whole = transformer(**options)
    billions = sum(one.numel() for one in whole.parameters()) / 1e9
    assert f"{billions:.1f} G" in row and f"{16 * lora_parameters(whole, 32) / 1e9:.1f} GB" in row
    others = float(row.split(" G | ")[1])
    assert f"{2 * (billions + others):.1f} GB" in row
    assert row in (ROOT / "docs" / "editors.md").read_text(encoding="utf-8")
