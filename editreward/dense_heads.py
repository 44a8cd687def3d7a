"""Heads on a backbone's image tokens: what each shows, should show, and where an edit is not as asked for.

Pre-training trains them (`research/tiny_vlm`), reward training keeps them valid (`editreward/training/dense.py`), and
`scorer.where` reads them. They stand in a model's folder, in a file of their own.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel
from transformers.utils import cached_file

from configuration_editreward import HUB_ARGUMENTS
from editreward.hub_ids import is_hub_id
from editreward.simulation.grounding import COMPARISONS, MISMATCHES, vocabulary_of

HEADS_FILE = "dense_heads/model.safetensors"
"""In a model's folder. Not beside `model.safetensors`: loaders of vLLM's kind take all weights that stand there."""
EARLIER_HEADS_FILE = "dense_heads.safetensors"
"""Where heads stood in earlier versions. Still read, no longer written."""
MISMATCH_HIDDEN = 96
RARE = -5.0
"""First logit of a name that earlier heads did not have."""


@dataclass(frozen=True)
class DenseLayers:
    """Numbers of the language model's layers whose outputs the heads read.

    Args:
        request: at the token before the source image: what the instruction says.
        source: at the source's tokens: what they should show.
        edited: at the edited images' tokens: what they should show.
        comparison: at all image tokens: where images differ, and where an edit is not as asked for.
    """

    request: int
    source: int
    edited: int
    comparison: int

    @classmethod
    def of(cls, depth: int) -> "DenseLayers":
        """Those before the last of `depth` layers, one after another: each takes up what the one before it found."""
        return cls(*(max(0, depth - back) for back in (5, 4, 3, 2)))


@dataclass
class DenseLogits:
    """In float32. The last two are None where there are no edited images, or they were not computed.

    Args:
        request: (groups, values of all parts of the request).
        attributes, asked, comparisons, mismatches: (groups, images, cells, names); the source is the first image.
    """

    request: Tensor
    attributes: Tensor
    asked: Tensor
    comparisons: Tensor | None = None
    mismatches: Tensor | None = None


class DenseHeads(nn.Module):
    """Linear heads, and an MLP for what is not as asked for.

    Args:
        hidden_size: Width of the language model.
        layers: What they read.
        worlds: Of the simulated groups whose targets they learn.
    """

    def __init__(self, hidden_size: int, layers: DenseLayers, worlds: Sequence[str] = ("shapes",)) -> None:
        super().__init__()
        self.hidden_size, self.layers, self.worlds = hidden_size, layers, tuple(worlds)
        self.vocabulary = vocabulary_of(self.worlds)

        def linear(names: int) -> nn.Module:
            return nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, names))

        self.request = linear(sum(map(len, self.vocabulary.request.values())))
        self.attributes = linear(len(self.vocabulary.attributes))
        self.asked_source = linear(len(self.vocabulary.asked))
        self.asked_edited = linear(len(self.vocabulary.asked))
        self.comparisons = linear(len(COMPARISONS))
        self.mismatches = nn.Sequential(
            nn.LayerNorm(hidden_size),
            nn.Linear(hidden_size, MISMATCH_HIDDEN),
            nn.GELU(),
            nn.Linear(MISMATCH_HIDDEN, len(MISMATCHES)),
        )

    def forward(self, features: Tensor, states: Mapping[int, Tensor], is_image: Tensor, images: int) -> DenseLogits:
        """The logits of every target.

        Args:
            features: (image tokens, hidden_size), the vision tower's.
            states: by number, a layer's output (groups, length, hidden_size). With one image a group, the edited and
                the comparison layer may be missing.
            is_image: (groups, length), which tokens are those of images.
            images: of each group.
        """
        shape = len(is_image), images, -1, self.hidden_size
        rows, before_source = torch.arange(len(is_image)), is_image.int().argmax(-1) - 1

        def cells(layer: int) -> Tensor:
            return states[layer][is_image].view(shape)

        request = self.request(states[self.layers.request][rows, before_source]).float()
        attributes = self.attributes(features.view(shape)).float()
        asked = self.asked_source(cells(self.layers.source)[:, :1]).float()
        if images == 1:
            return DenseLogits(request, attributes, asked)
        edited, compared = cells(self.layers.edited)[:, 1:], cells(self.layers.comparison)
        asked = torch.cat([asked, self.asked_edited(edited).float()], dim=1)
        return DenseLogits(
            request, attributes, asked, self.comparisons(compared).float(), self.mismatches(compared).float()
        )

    def output_names(self) -> dict[str, tuple[str, ...]]:
        """Head to the names of its outputs, in their order."""
        said = tuple(f"{part}: {value}" for part, values in self.vocabulary.request.items() for value in values)
        shown, asked = self.vocabulary.attributes, self.vocabulary.asked
        return {
            "request": said,
            "attributes": shown,
            "asked_source": asked,
            "asked_edited": asked,
            "comparisons": COMPARISONS,
            "mismatches": MISMATCHES,
        }

    @torch.no_grad()
    def begin_with(self, earlier: "DenseHeads") -> None:
        """Take over the weights of heads of the same width that learnt other worlds: what they have a name for.

        What only this one has a name for begins as rare; a value of an instruction's part as the mean of the known
        ones, so that it is not beaten by them from the start.
        """
        state, known = self.state_dict(), earlier.state_dict()
        for head, names in self.output_names().items():
            before = earlier.output_names()[head]
            pairs = [(row, before.index(name)) for row, name in enumerate(names) if name in before]
            own_rows, earlier_rows = (list(rows) for rows in zip(*pairs, strict=True))
            last = len(list(self.get_submodule(head).children())) - 1
            for name in known:
                if not name.startswith(f"{head}."):
                    continue
                if name.startswith(f"{head}.{last}."):
                    if name.endswith("bias"):
                        state[name].fill_(RARE)
                    if head == "request":
                        self._begin_as_known(state[name], known[name], earlier)
                    state[name][own_rows] = known[name][earlier_rows]
                else:
                    state[name].copy_(known[name])

    def _begin_as_known(self, rows: Tensor, known: Tensor, earlier: "DenseHeads") -> None:
        """Let each part's values begin as the mean of those that the earlier heads knew, if any."""
        own, before = self.vocabulary.request_slices, earlier.vocabulary.request_slices
        for part in own.keys() & before.keys():
            rows[own[part]] = known[before[part]].mean(0)

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write weights, by default as wide as they are, and layers into a model folder, replacing any there."""
        metadata = {"hidden_size": str(self.hidden_size), "layers": json.dumps(asdict(self.layers))}
        if self.worlds != ("shapes",):
            metadata["worlds"] = json.dumps(self.worlds)
        weights = {name: weight.to(dtype or weight.dtype) for name, weight in self.state_dict().items()}
        self.remove(folder)
        path = Path(folder) / HEADS_FILE
        path.parent.mkdir(exist_ok=True)
        save_file(weights, path, metadata)

    @staticmethod
    def remove(folder: str | Path) -> None:
        """Delete the heads of a model folder, if it has some."""
        for name in (HEADS_FILE, EARLIER_HEADS_FILE):
            (Path(folder) / name).unlink(missing_ok=True)

    @classmethod
    def load(cls, name: str | Path, **hub_options: object) -> "DenseHeads":
        """Those that stand beside a model, in float32; arguments and errors as for [`find`].

        Raises:
            FileNotFoundError: it has none.
        """
        heads = cls.find(name, **hub_options)
        if heads is None:
            raise FileNotFoundError(
                f"{name} has no {HEADS_FILE}: only models of research/tiny_vlm bring dense heads, and those that were "
                "trained from them with `--dense_weight`."
            )
        return heads

    @classmethod
    def find(cls, name: str | Path, **hub_options: object) -> "DenseHeads | None":
        """Those that stand beside a model, in float32, if there are any.

        Args:
            name: a folder or a Hub repository id.
            hub_options: `revision`, `token` and the like of a repository.

        Raises:
            ValueError: they cannot be used.
        """
        if Path(name).is_dir():
            paths = [Path(name) / file for file in (HEADS_FILE, EARLIER_HEADS_FILE)]
            return next((cls.from_file(path) for path in paths if path.is_file()), None)
        if not is_hub_id(str(name)):
            return None
        options = {key: value for key, value in hub_options.items() if key in HUB_ARGUMENTS and value is not None}
        for file in (HEADS_FILE, EARLIER_HEADS_FILE):
            found = cached_file(
                str(name),
                file,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
                **options,
            )
            if found is not None:
                return cls.from_file(found)
        return None

    @classmethod
    def from_file(cls, path: str | Path) -> "DenseHeads":
        """Read them from their file, in float32.

        Raises:
            ValueError: it holds none, or those of other targets.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
            worlds = json.loads(metadata.get("worlds", '["shapes"]'))
            heads = cls(int(metadata["hidden_size"]), DenseLayers(**json.loads(metadata["layers"])), worlds)
            heads.load_state_dict(weights)
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{path} holds no dense heads that this version can use: {error}") from error
        return heads


class LayerStates:
    """Keeps, of each pass through a language model, what the heads read.

    Args:
        layers: Whose outputs to keep.
    """

    def __init__(self, layers: DenseLayers) -> None:
        self.numbers = sorted(set(asdict(layers).values()))
        self._inputs: Tensor | None = None
        self._outputs: dict[int, Tensor] = {}

    def watch(self, language_model: PreTrainedModel) -> list[RemovableHandle]:
        """Hook into a language model; the handles end it."""
        return [
            language_model.register_forward_pre_hook(self._keep_inputs, with_kwargs=True),
            *(
                language_model.layers[number].register_forward_hook(partial(self._keep_output, number))
                for number in self.numbers
            ),
        ]

    def _keep_inputs(self, module: nn.Module, args: tuple[object, ...], kwargs: dict[str, Tensor]) -> None:
        self._inputs = kwargs["inputs_embeds"]

    def _keep_output(
        self, number: int, module: nn.Module, inputs: tuple[object, ...], output: Tensor | tuple[Tensor, ...]
    ) -> None:
        self._outputs[number] = output[0] if isinstance(output, tuple) else output

    def take(self) -> tuple[Tensor, dict[int, Tensor]]:
        """Of the last pass: what the language model was given and, by number, the layers' outputs, each (groups,
        length, hidden_size)."""
        assert self._inputs is not None, "The model has not been run."
        taken = self._inputs, self._outputs
        self._inputs, self._outputs = None, {}
        return taken
