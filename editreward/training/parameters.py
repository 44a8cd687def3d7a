"""Which weights are trained, at which learning rate, and in which precision."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from accelerate.utils import parse_flag_from_env
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from modeling_editreward import EditRewardModel

# The parts of a model, by what is in a parameter's name. The first match counts; whatever matches none is part of the
# language model.
PATTERNS = {
    "heads": r"\bheads\.",
    "merger": r"\bvisual\.(merger|deepstack_merger_list)\.",
    "vision_tower": r"\bvisual\.",
    "reward_tokens": r"\bembed_tokens\.(.*\.)?(reward_tokens|trainable_tokens_delta)\b",
    "token_embeddings": r"\bembed_tokens\.",
    "language_model": "",
}
PARTS = ("vision_tower", "merger", "language_model", "token_embeddings", "reward_tokens", "heads")
PARTS_WITH_A_RATE = ("vision_tower", "merger", "heads", "reward_tokens")
"""Parts that may have a learning rate of their own. The others are trained at `learning_rate`."""


class PartArguments(Protocol):
    """What is read here of the training arguments."""

    freeze: list[str] | None
    vision_tower_learning_rate: float | None
    merger_learning_rate: float | None
    heads_learning_rate: float | None
    reward_tokens_learning_rate: float | None
    bf16: bool
    fp16: bool
    fsdp: object


HALF_PRECISION = (torch.bfloat16, torch.float16)


def part_of(name: str) -> str:
    """The part of the model that the parameter `name` belongs to, whatever the model is wrapped in."""
    return next(part for part, pattern in PATTERNS.items() if re.search(pattern, name))


class RewardTokenEmbedding(nn.Embedding):
    """
    Token embeddings of which the rows of the reward tokens are a parameter of their own, `reward_tokens`.

    So that these rows can be trained while the matrix is frozen, or at another rate: without a gradient and optimizer
    states of the size of the vocabulary. State dicts hold the rows within `weight`, too, and are loaded from there
    where they hold nothing else, so that checkpoints are those of a model with plain embeddings.

    Args:
        embedding (`nn.Embedding`): The embeddings to split. Its weight is taken over, not copied.
        token_ids (`Sequence[int]`): Rows to split off.
    """

    token_ids: Tensor

    def __init__(self, embedding: nn.Embedding, token_ids: Sequence[int]) -> None:
        super().__init__(
            embedding.num_embeddings, embedding.embedding_dim, embedding.padding_idx, _weight=embedding.weight.data
        )
        self.weight = embedding.weight
        token_ids = list(dict.fromkeys(token_ids))
        self.register_buffer("token_ids", torch.tensor(token_ids, device=self.weight.device), persistent=False)
        self.reward_tokens = nn.Parameter(self.weight.detach()[self.token_ids].clone())
        self.register_state_dict_pre_hook(_write_rows)
        self.register_load_state_dict_pre_hook(_read_rows)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Token ids of any shape to embeddings, `(..., embedding_dim)`."""
        embeddings = super().forward(input_ids)
        is_token = torch.eq(input_ids.unsqueeze(-1), self.token_ids)
        rows = F.embedding(is_token.int().argmax(-1), self.reward_tokens).to(embeddings.dtype)
        return torch.where(is_token.any(-1, keepdim=True), rows, embeddings)


@torch.no_grad()
def _write_rows(module: "RewardTokenEmbedding", *_: object) -> None:
    """Write the trained rows into the matrix, whose own are never read. Not where either is a rank's shard."""
    weight, rows = module.weight, module.reward_tokens
    if not _is_shard(weight) and not _is_shard(rows):
        weight[module.token_ids] = rows.to(weight.dtype)


def _read_rows(module: "RewardTokenEmbedding", state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    weight = state_dict.get(f"{prefix}weight")
    if weight is not None and f"{prefix}reward_tokens" not in state_dict:
        state_dict[f"{prefix}reward_tokens"] = weight[module.token_ids.to(weight.device)]


def _is_shard(tensor: Tensor) -> bool:
    # FSDP2's parameters are `DTensor`s, and those of FSDP1 and ZeRO-3 are empty between uses.
    return hasattr(tensor, "device_mesh") or tensor.ndim != 2 or tensor.numel() == 0


def fold_reward_tokens(model: nn.Module, state_dict: dict[str, Tensor]) -> None:
    """Write trained rows into the matrix of a state dict that was gathered from the shards of several processes."""
    for name, module in model.named_modules():
        rows = state_dict.get(f"{name}.reward_tokens") if isinstance(module, RewardTokenEmbedding) else None
        if rows is not None:
            weight = state_dict[f"{name}.weight"]
            weight[module.token_ids.to(weight.device)] = rows.to(weight)


def select_trained(model: "EditRewardModel", reward_token_ids: Sequence[int], args: PartArguments) -> None:
    """Freeze the parts that `args.freeze` names and train all others. Selecting twice changes nothing.

    Args:
        model ([`EditRewardModel`]): The model. Its token embeddings become a [`RewardTokenEmbedding`] where the reward
            tokens are not to be trained like the rest of them.
        reward_token_ids (`Sequence[int]`): Ids of the reward tokens.
        args ([`EditRewardTrainingArguments`]): `freeze` and the learning rates.
    """
    frozen = set(args.freeze or ())
    embedding = model.get_input_embeddings()
    differ = ("token_embeddings" in frozen) != ("reward_tokens" in frozen) or "reward_tokens" in learning_rates(args)
    if differ and not isinstance(embedding, RewardTokenEmbedding):
        name = next(name for name, module in model.named_modules() if module is embedding)
        model.set_input_embeddings(RewardTokenEmbedding(embedding, reward_token_ids))
        model._keys_to_ignore_on_save.add(f"{name}.reward_tokens")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) not in frozen)


def has_masters(args: PartArguments) -> bool:
    """Whether half-precision weights become float32 when they are sharded: accelerate does that for FSDP."""
    return (args.bf16 or args.fp16) and (bool(args.fsdp) or parse_flag_from_env("ACCELERATE_USE_FSDP"))


def upcast_trained(model: "EditRewardModel", reward_token_ids: Sequence[int], args: PartArguments) -> None:
    """Hold in float32 what will be trained and has no master weights; frozen weights stay as they are.

    Takes the arguments of [`select_trained`].
    """
    select_trained(model, reward_token_ids, args)
    if has_masters(args):
        return
    embedding = model.get_input_embeddings()
    if isinstance(embedding, RewardTokenEmbedding) and embedding.reward_tokens.requires_grad:
        embedding.float()  # checkpoints hold trained rows within the matrix, which must not round them
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype in HALF_PRECISION:
            parameter.data = parameter.data.float()


def check_precision(model: nn.Module, args: PartArguments) -> None:
    """Make sure that steps at small learning rates move the weights.

    Raises:
        ValueError: If nothing is trained, if trained weights are in half precision and nobody keeps float32 masters of
            them, or if frozen ones are and the two would meet in a layer without autocast.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise ValueError("Nothing is trained: `freeze` names every part of the model. Take one out.")
    half = next((name for name, p in trained.items() if p.dtype in HALF_PRECISION), None)
    if half and not has_masters(args):
        dtype = str(trained[half].dtype).removeprefix("torch.")
        raise ValueError(
            f"{half} would be trained in {dtype}, in which a step of 2e-6 leaves 96 % of the weights exactly where "
            "they were. Load the model with `--dtype float32` (or 'auto': only what is trained) and compute in half "
            "precision with `--bf16 true`, or train with FSDP, which makes float32 what it shards."
        )
    is_mixed = any(not p.requires_grad and p.dtype in HALF_PRECISION for p in model.parameters())
    if is_mixed and not (args.bf16 or args.fp16) and not hasattr(model, "peft_config"):
        raise ValueError(
            "Frozen weights are in half precision, trained ones in float32, and without autocast no layer takes both. "
            "Set `--bf16 true`, or load the model with `--dtype float32`."
        )


def learning_rates(args: PartArguments) -> dict[str, float]:
    """The learning rates of the parts that have one of their own."""
    rates = {part: getattr(args, f"{part}_learning_rate") for part in PARTS_WITH_A_RATE}
    return {part: rate for part, rate in rates.items() if rate is not None}


def set_learning_rates(optimizer: torch.optim.Optimizer, model: nn.Module, rates: Mapping[str, float]) -> None:
    """Split the parameter groups of a new optimizer, so that parts have the learning rates that `rates` gives them.

    Everything else of a group, its weight decay above all, stays as it was.

    Raises:
        ValueError: If a part has a rate and no weight to train.
    """
    part_of_parameter = {id(p): part_of(name) for name, p in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        by_part: dict[str, list[Tensor]] = {}
        for parameter in group["params"]:
            part = part_of_parameter[id(parameter)]
            by_part.setdefault(part if part in rates else "", []).append(parameter)
        for part, parameters in by_part.items():
            own = {"lr": rates[part], "part": part} if part else {"part": ""}
            groups.append({**group, "params": parameters, **own})
    missing = set(rates) - {group["part"] for group in groups}
    if missing:
        part = sorted(missing)[0]
        raise ValueError(f"`{part}_learning_rate` is set, but nothing of the {part.replace('_', ' ')} is trained.")
    # The first group's rate is the one that is logged as `learning_rate`.
    optimizer.param_groups[:] = sorted(groups, key=lambda group: group["part"] != "")


def compile_language_model(model: nn.Module, backend: str | None, mode: str | None) -> None:
    """Compile the layers of the language model with `torch.compile`, in place: names of weights stay as they are.

    They are most of the work, alike, and of one graph each. Around them, graphs would break at every step that depends
    on the images of a batch.
    """
    for name, module in model.named_modules():
        if re.search(r"\blanguage_model\.layers\.\d+$", name):
            module.compile(backend=backend or "inductor", mode=mode, dynamic=True)
