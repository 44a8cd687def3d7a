"""How much memory a training step takes on each GPU, by a formula: to choose a recipe before renting the GPUs.

Per GPU, in bytes, with P parameters trained and Q frozen, T tokens of the language model and V image patches in a
micro-batch, L and D layers of the language model and of the vision tower, H and W their widths:

- weights: 4 P + 2 Q (bfloat16), or 0.52 for a parameter of a linear layer that is quantised to 4 bits;
- gradients 4 P and the two moments of AdamW 8 P, both in float32;
- the bfloat16 copies that autocast keeps during a step: 2 P;
- FSDP divides the first three by the number of GPUs, and gathers in bfloat16, in place of the copies, the token
  embeddings and two layers at a time; ZeRO-3 takes 4 P more between the GPUs, a copy of its shards; ZeRO-2 divides
  gradients, moments and such a copy, and nothing else;
- activations with gradient checkpointing: 4 H for each token and layer of the language model and what one of its
  layers saves for the backward pass, T `language_layer_bytes`; the same of the vision tower if it is trained.
  Without it, what every layer saves;
- 1.5 GiB for the CUDA context, libraries, fragments and work space.

The coefficients of the layers follow from which tensors autograd saves under bfloat16 autocast with a float32
residual stream; `tests/training/test_memory.py` holds them to what it saves in fact.
"""

from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from configuration_editreward import EditRewardConfig, check_choice
from modeling_editreward import EditRewardModel

GIB = 2**30
RESERVE = int(1.5 * GIB)
QUANTISED_BYTES = 0.52  # NF4: half a byte, and 8-bit scales of 64 weights with scales of their own
SHARDING = ("none", "zero2", "full")


@dataclass(frozen=True)
class TrainingMemory:
    """Memory of a training step on one GPU, in bytes."""

    weights: int
    gradients: int
    optimizer: int
    copies: int
    activations: int
    reserve: int = RESERVE

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.weights + self.gradients + self.optimizer + self.copies + self.activations + self.reserve


def language_layer_bytes(config: PreTrainedConfig) -> int:
    """Bytes per token that a decoder layer saves for its backward pass; `config` is the language model's."""
    width, head_dim = config.hidden_size, getattr(config, "head_dim", None)
    head_dim = head_dim or width // config.num_attention_heads
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    # Inputs of both norms and their normalised values, and a bfloat16 copy of these for each of five linear layers;
    # of the attention: queries, output, keys and values; of the MLP: gate, its activation, the other branch, product.
    saved = 26 * width + 4 * (queries + keys) + 8 * config.intermediate_size
    if config.model_type.startswith("qwen3"):
        saved += 6 * (queries + keys)  # its norms of queries and keys
    return saved


def vision_layer_bytes(config: PreTrainedConfig) -> int:
    """Bytes per patch that a block of the vision tower saves for its backward pass; `config` is the tower's."""
    if config.model_type.startswith("qwen3"):  # LayerNorm, and an MLP of two layers
        return 24 * config.hidden_size + 4 * config.intermediate_size
    return 34 * config.hidden_size + 8 * config.intermediate_size


def training_memory(
    config: EditRewardConfig,
    *,
    tokens: int,
    patches: int,
    adapter_rank: int | None = None,
    quantised: bool = False,
    vision_trained: bool = True,
    gradient_checkpointing: bool = True,
    sharding: str = "none",
    devices: int = 1,
) -> TrainingMemory:
    """Estimate the memory that a training step takes on each GPU, by the formula of this module.

    Args:
        config: configuration of the model.
        tokens: packed tokens of a micro-batch.
        patches: image patches of a micro-batch.
        adapter_rank: rank of LoRA on the linear layers of the language model; all else is frozen but the heads.
            Default: everything is trained.
        quantised: the linear layers of the frozen language model are held in 4 bits.
        vision_trained: whether the vision tower is trained. With adapters it is not.
        gradient_checkpointing: activations within a layer are computed again in the backward pass.
        sharding: "none" (one GPU or DDP), "zero2", or "full" (FSDP).
        devices: number of GPUs that share.
    """
    check_choice("sharding", sharding, SHARDING)
    if quantised and adapter_rank is None:
        raise ValueError("`quantised` weights cannot be trained: give an `adapter_rank`.")
    with torch.device("meta"):
        model = EditRewardModel(config)
    total = sum(p.numel() for p in model.parameters())
    heads = sum(p.numel() for p in model.heads.parameters())
    vision = sum(p.numel() for p in model.backbone.visual.parameters())
    linear = [m for m in model.backbone.language_model.modules() if isinstance(m, torch.nn.Linear)]
    vision_trained = vision_trained and adapter_rank is None
    if adapter_rank is None:
        trained = total - (0 if vision_trained else vision)
    else:
        trained = heads + sum(adapter_rank * (m.in_features + m.out_features) for m in linear)
    frozen = total - trained if adapter_rank is None else total - heads
    in_4_bits = sum(m.weight.numel() for m in linear) if quantised else 0

    weights = 4 * trained + 2 * (frozen - in_4_bits) + int(QUANTISED_BYTES * in_4_bits)
    gradients, optimizer, copies = 4 * trained, 8 * trained, 2 * trained
    if sharding == "full":
        weights, gradients, optimizer = (n // devices for n in (weights, gradients, optimizer))
        layer = sum(p.numel() for p in model.backbone.language_model.layers[0].parameters())
        copies = 2 * (model.get_input_embeddings().weight.numel() + 2 * layer)
    elif sharding == "zero2":
        gradients, optimizer = gradients // devices, (optimizer + 4 * trained) // devices

    activations = _activation_bytes(config, tokens, patches if vision_trained else 0, gradient_checkpointing)
    return TrainingMemory(weights, gradients, optimizer, copies, activations)


def _activation_bytes(config: EditRewardConfig, tokens: int, patches: int, gradient_checkpointing: bool) -> int:
    """Bytes that are saved for the backward pass of language model and vision tower, within and between layers."""
    text, tower = config.get_text_config(), config.backbone_config.vision_config

    def stack(count: int, layers: int, width: int, layer_bytes: int) -> int:
        return count * (layers * 4 * width + layer_bytes if gradient_checkpointing else layers * layer_bytes)

    return stack(tokens, text.num_hidden_layers, text.hidden_size, language_layer_bytes(text)) + stack(
        patches, tower.depth, tower.hidden_size, vision_layer_bytes(tower)
    )
