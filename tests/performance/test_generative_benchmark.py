"""The benchmark of generative scorers: it runs, and its bound counts what is computed."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

ROOT = Path(__file__).parents[2]


@pytest.fixture
def generative(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "performance"))
    monkeypatch.delitem(sys.modules, "generative", raising=False)
    import generative

    return generative


@pytest.fixture
def shape(tmp_path):
    """The shape of the published table with a hundredth of its weights."""
    content = json.loads((ROOT / "performance/shapes/generative_132m.json").read_text())
    content["text_config"] |= {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "vocab_size": 1100,
    }
    content["text_config"] |= {"num_attention_heads": 2}
    content["vision_config"] |= {"depth": 2, "hidden_size": 96, "intermediate_size": 128, "out_hidden_size": 128}
    content["vision_config"] |= {"fullatt_block_indexes": [1], "num_heads": 2}
    path = tmp_path / "shape.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.slow
def test_the_benchmark_runs(generative, shape, tmp_path):
    table = generative.main(
        ["--shape", str(shape), "--cells", "112:2:2", "--tokens", "3", "--json", str(tmp_path / "found.json")]
    )
    assert "| 112 | 2 | 2 |" in table
    (cell,) = json.loads((tmp_path / "found.json").read_text())["cells"]
    assert cell["seconds"] > 0
    assert set(cell["bound"]) == {"encoding", "reading", "writing", "rate", "bandwidth"}


def test_the_bound_counts_what_is_read(generative, shape, monkeypatch):
    # In operations instead of seconds.
    monkeypatch.setattr(
        generative, "products_seconds", lambda layers, rows, *_: 2 * rows * sum(one.weight.numel() for one in layers)
    )
    monkeypatch.setattr(generative, "matrix_multiply_peak", lambda *_: 1.0)
    monkeypatch.setattr(generative, "bandwidth", lambda *_: 1.0)
    model = generative.build_model(shape, torch.device("cpu"), torch.float32)
    prompts = generative.build_prompts(model, 224, 2)
    engine = generative.Engine(model, ())
    bound = generative.bound(engine, prompts, passes=1, tokens=1, clock="cpu")
    fused = {  # the counter does not know it
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: (
            sdpa_flop_count(query, key, value)
        )
    }
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=fused) as counter:
        computed = engine.read(prompts)
        engine.logits(torch.stack([one.hidden for one in computed]))
    least = bound["encoding"] + bound["reading"]
    # Half of each square of attention is computed for nothing.
    assert least <= 1.02 * counter.get_total_flops()
    assert counter.get_total_flops() <= 1.3 * least
