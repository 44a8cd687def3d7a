"""The memory formula, against what autograd saves and what the parameters take."""

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AttentionInterface

import modeling_editreward
from editreward.training.memory import RESERVE, language_layer_bytes, training_memory, vision_layer_bytes
from tests.helpers.backbones import build, make_image


def fused_attention(query, key, value, mask, scaling):
    """What GPUs run: it saves queries, keys, values and output, and no scores."""
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True)


def saved_by(module, run) -> int:
    """Bytes that autograd saves in `run`, each storage once, without weights and their bfloat16 copies."""
    weights = {tuple(p.shape) for p in module.parameters()}
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        is_copy = tuple(tensor.shape) in weights or tuple(tensor.shape[::-1]) in weights
        if storage.data_ptr() not in own and not is_copy:
            storages[storage.data_ptr()] = storage, storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(size for _, size in storages.values())


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_layers_save_the_bytes_of_the_formula(kind, monkeypatch):
    for name in (modeling_editreward.TREE_BLOCKS, modeling_editreward.PACKED_VISION):
        # Where a model has been loaded with its own code, that code's functions are the registered ones.
        registered = AttentionInterface()[name]
        monkeypatch.setitem(registered.__globals__, "masked_attention", fused_attention)
    model, processor = build(kind)
    inputs = processor(make_image(1), [make_image(2), make_image(3)], "make it blue")
    layers = {
        "text": (model.backbone.language_model.layers[0], language_layer_bytes(model.config.get_text_config())),
        "vision": (model.backbone.visual.blocks[0], vision_layer_bytes(model.config.backbone_config.vision_config)),
    }
    calls = {}
    for name, (layer, _) in layers.items():
        layer.register_forward_pre_hook(
            lambda module, args, kwargs, name=name: calls.setdefault(name, (args, kwargs)), with_kwargs=True
        )
    with torch.autocast("cpu", torch.bfloat16):
        model(**inputs, packing="unpacked")
        for name, (layer, per_token) in layers.items():
            args, kwargs = calls[name]
            hidden = args[0].detach().float().requires_grad_()
            tokens = hidden.shape[:-1].numel()
            saved = saved_by(layer, lambda: layer(hidden, *args[1:], **kwargs))  # noqa: B023
            # The statistics of norms and attention, and the rotary table, come on top: little at real widths.
            extra = saved / tokens - per_token
            assert 0 <= extra <= 4 * (6 * 16 + 2 * 64), (name, saved / tokens, per_token)


def test_states_of_full_training_and_of_adapters_are_counted_by_hand():
    config = build("qwen2_5_vl")[0].config
    model = build("qwen2_5_vl")[0]
    parameters = sum(p.numel() for p in model.parameters())
    whole = training_memory(config, tokens=0, patches=0)
    assert (whole.weights, whole.gradients, whole.optimizer) == (4 * parameters, 4 * parameters, 8 * parameters)
    assert whole.total == 18 * parameters + RESERVE
    shared = training_memory(config, tokens=0, patches=0, sharding="full", devices=8)
    language_model = model.backbone.language_model
    gathered = [*language_model.embed_tokens.parameters(), *language_model.layers[:2].parameters()]
    assert shared.copies == 2 * sum(p.numel() for p in gathered)
    assert shared.total - RESERVE - shared.copies == pytest.approx(16 * parameters / 8, rel=1e-4)
    zero2 = training_memory(config, tokens=0, patches=0, sharding="zero2", devices=8)
    assert zero2.total - RESERVE == pytest.approx(parameters * (4 + 2 + 16 / 8), rel=1e-4)

    linear = [m for m in model.backbone.language_model.modules() if isinstance(m, torch.nn.Linear)]
    heads = sum(p.numel() for p in model.heads.parameters())
    trained = heads + sum(8 * sum(m.weight.shape) for m in linear)
    adapters = training_memory(config, tokens=0, patches=0, adapter_rank=8)
    assert adapters.total == 18 * trained + 2 * (parameters - heads) + RESERVE
    quantised = training_memory(config, tokens=0, patches=0, adapter_rank=8, quantised=True)
    assert adapters.weights - quantised.weights == pytest.approx(
        1.48 * sum(m.weight.numel() for m in linear), rel=1e-4
    )


def test_checkpointing_keeps_one_layer_and_the_inputs_of_all():
    config = build("qwen3_vl")[0].config
    text, tower = config.get_text_config(), config.backbone_config.vision_config
    kept = training_memory(config, tokens=1000, patches=0, vision_trained=False).activations
    assert kept == 1000 * (4 * text.hidden_size * text.num_hidden_layers + language_layer_bytes(text))
    every = training_memory(config, tokens=0, patches=10, gradient_checkpointing=False).activations
    assert every == 10 * tower.depth * vision_layer_bytes(tower)


def test_quantised_weights_are_not_trained():
    with pytest.raises(ValueError, match="`adapter_rank`"):
        training_memory(build("qwen2_5_vl")[0].config, tokens=1, patches=1, quantised=True)
