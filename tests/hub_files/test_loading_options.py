"""Options of `AutoModel.from_pretrained`: precision, device map, attention and quantization. Heads stay in float32."""

from importlib.util import find_spec

import pytest
import torch
from transformers import AutoModel, AutoProcessor, BitsAndBytesConfig, TorchAoConfig

from editreward import EditRewardScorer
from editreward.scorers.loading import bundled_model
from editreward.simulation import simulate_group


@pytest.fixture(scope="module")
def group():
    group = simulate_group(3, candidates=5, size=112)
    processor = AutoProcessor.from_pretrained(bundled_model(), trust_remote_code=True)
    return processor, (group.source, [candidate.image for candidate in group.candidates], group.instruction)


def load(**options):
    return AutoModel.from_pretrained(bundled_model(), trust_remote_code=True, **options)


def rewards(model, group):
    processor, images = group
    with torch.no_grad():
        output = model(**processor(*images).to(model.device))
    assert output.reward.dtype == torch.float32
    assert {parameter.dtype for parameter in model.heads.parameters()} == {torch.float32}
    assert {type(module).__name__ for module in model.heads.modules() if hasattr(module, "weight")} == {"Linear"}
    return output.reward


@pytest.fixture(scope="module")
def exact(group):
    return rewards(load(dtype=torch.float32), group)


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager", "flex_attention"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_attention_implementations_agree(attn_implementation, group, exact):
    model = load(dtype=torch.float32, attn_implementation=attn_implementation)
    assert torch.allclose(rewards(model, group), exact, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_with_a_device_map_ranks_the_same(dtype, group, exact):
    model = load(dtype=dtype, device_map="auto", attn_implementation="sdpa")
    assert model.backbone.dtype == dtype
    found = rewards(model, group)
    assert torch.equal(found.argsort(), exact.argsort()) and torch.allclose(found, exact, atol=0.2)


# The bundled model's vision tower has widths that bitsandbytes' 4-bit kernel for CPUs does not take.
NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "llm_int8_skip_modules": ["backbone.visual"]}


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
@pytest.mark.parametrize(("options", "layer"), [({"load_in_8bit": True}, "Linear8bitLt"), (NF4, "Linear4bit")])
def test_bitsandbytes_quantizes_the_backbone_and_not_the_heads(options, layer, group, exact):
    config = BitsAndBytesConfig(**options)
    model = load(quantization_config=config)
    assert config.llm_int8_skip_modules == options.get("llm_int8_skip_modules"), "the caller's own is not changed"
    assert type(model.backbone.language_model.layers[0].mlp.up_proj).__name__ == layer
    assert model.get_memory_footprint() < 0.75 * load(dtype=torch.bfloat16).get_memory_footprint()
    assert (rewards(model, group) - exact).abs().max() < 0.3 * exact.std()
    scorer = EditRewardScorer(model, group[0])
    assert scorer.best_of(*group[1]).index == int(exact.argmax())


@pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao")
def test_torchao_quantizes_the_backbone_and_not_the_heads(group, exact):
    from torchao.quantization import Int8WeightOnlyConfig

    model = load(quantization_config=TorchAoConfig(Int8WeightOnlyConfig()))
    weight = model.backbone.language_model.layers[0].mlp.up_proj.weight
    assert type(weight).__module__.startswith("torchao")
    assert (rewards(model, group) - exact).abs().max() < 0.3 * exact.std()


@pytest.mark.skipif(find_spec("flash_attn") is not None, reason="flash-attn is installed")
def test_flash_attention_without_its_package_is_an_error_that_says_so():
    with pytest.raises(ImportError, match="flash_attn|FlashAttention2"):
        load(dtype=torch.bfloat16, attn_implementation="flash_attention_2")
