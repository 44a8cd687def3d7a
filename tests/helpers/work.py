"""How much work a model is given, and a shape of a model that has little of it."""

import functools
import json
from pathlib import Path


class Counted:
    """What a model is given while the block runs."""

    def __init__(self, model):
        self.model, self.calls, self.tokens, self.images, self.heads = model, 0, 0, 0, 0

    def __enter__(self):
        def language_model(module, args, kwargs):
            self.calls += 1
            self.tokens += kwargs["inputs_embeds"].shape[:2].numel()

        def tower(module, args, kwargs):
            self.images += len(kwargs["grid_thw"])

        def heads(module, args):
            self.heads += args[0].shape[:-1].numel()

        backbone = self.model.backbone
        self.hooks = [
            backbone.language_model.register_forward_pre_hook(language_model, with_kwargs=True),
            backbone.visual.register_forward_pre_hook(tower, with_kwargs=True),
            *(mlp[0].register_forward_pre_hook(heads) for mlp in self.model.heads.mlps),
        ]
        return self

    def __exit__(self, *error):
        for hook in self.hooks:
            hook.remove()


@functools.cache
def tiny_shape(folder):
    """A file with the shape of a tiny backbone, for the scripts that measure a shape of random weights."""
    text = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2, "vocab_size": 2600, "tie_word_embeddings": False}
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64}
    vision |= {"window_size": 56, "fullatt_block_indexes": [1]}
    file = Path(folder) / "shape.json"
    file.write_text(json.dumps({"model_type": "qwen2_5_vl", "text_config": text, "vision_config": vision}))
    return file
