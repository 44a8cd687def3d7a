"""Processor of an EditReward model: edit groups in, one packed token sequence per group out."""

import dataclasses
import functools
import re
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jinja2 import Environment, nodes
from jinja2.exceptions import SecurityError
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from PIL import Image
from transformers import (
    AutoConfig,
    BatchFeature,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    Qwen2VLImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.utils.chat_template_utils import _compile_jinja_template

try:
    from .configuration_editreward import (
        DEFAULT_DIMENSIONS,
        HUB_ARGUMENTS,
        LAYOUTS,
        POSITION_SCHEMES,
        EditRewardConfig,
        check_choice,
        check_dimensions,
        is_number,
        load_tokenizer,
        reward_tokens,
    )
    from .images_editreward import IMAGE_MODES, ImageError, image_list, image_size, load_image, unstacked
    from .modeling_editreward import BatchPlan, TreeBlocks
except ImportError:  # Installed beside the `editreward` package, these files are top-level modules.
    from configuration_editreward import (
        DEFAULT_DIMENSIONS,
        HUB_ARGUMENTS,
        LAYOUTS,
        POSITION_SCHEMES,
        EditRewardConfig,
        check_choice,
        check_dimensions,
        is_number,
        load_tokenizer,
        reward_tokens,
    )
    from images_editreward import IMAGE_MODES, ImageError, image_list, image_size, load_image, unstacked
    from modeling_editreward import BatchPlan, TreeBlocks


DEFAULT_PIXELS = 448 * 448
"""Pixels that every image is resized to, as near as its aspect ratio allows (fixed by the published weights)."""

INSTRUCTION_MODES = ("clean", "reference")

_INVISIBLE = re.compile("[\ufeff\u200b\u2060]")
_BLANKS = re.compile(r"\s+")  # Python's \s has the line breaks of all systems, and every blank of Unicode
_LINE_BREAK = re.compile("[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")

MAX_PATCH_SIZE = 256
"""Of a patch in pixels, of a token in patches, of a patch in frames."""

MAX_RESIZED_PIXELS = 2**24
"""A processor's settings may ask for images of at most so many pixels."""

MAX_TEMPLATE_CHARACTERS = 2**16
MAX_TEMPLATE_STEPS = 10_000
MAX_TEMPLATE_SECONDS = 10
"""Limits of a chat template and what it makes."""

TEMPLATE_METHODS = frozenset(
    ("capitalize", "count", "endswith", "find", "index", "isdigit", "join", "lower", "lstrip", "partition")
    + ("removeprefix", "removesuffix", "replace", "rfind", "rpartition", "rsplit", "rstrip", "split", "splitlines")
    + ("startswith", "strip", "title", "upper")
)
"""Methods of texts that a chat template may call."""

TEMPLATE_FILTERS = frozenset(
    ("abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "indent", "int")
    + ("items", "join", "last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "replace")
    + ("reverse", "round", "safe", "select", "selectattr", "sort", "string", "sum", "title", "tojson", "trim")
    + ("unique", "upper")
)
"""Filters that a chat template may use."""

# Stands for the instruction in a rendered prompt, from Unicode's private use area. The instruction is put in after the
# prompt has been split into segments and special tokens, so that nothing in it can be taken for either.
_INSTRUCTION = "\ue000"

# The scoring prompts of arXiv 2509.26346, appendix A.9 (with the visual-quality header in its place).
PAPER_TEMPLATES = {
    "instruction_following": """\
You are tasked with evaluating an edited image **in comparison with the original source image** based on **Instruction Following & Semantic Fidelity**, and assigning a score from 1 to 4, with 1 being the worst and 4 being the best. This dimension focuses on how accurately, completely, and exclusively the model executed the given text instruction.

**Inputs Provided:**
- Source Image (before editing)
- Edited Image (after applying the instruction)
- Text Instruction

**Sub-Dimensions to Evaluate:**
- **Semantic Accuracy:** Assess whether the edited content accurately captures the semantics of the instruction. The edited result should precisely match the intended meaning. For example, if the instruction is "replace apples with oranges," the object must clearly be oranges, not other fruits.
- **Completeness of Editing:** Check whether **all parts** of the instruction are fully executed. For multi-step edits (e.g., "replace a red car with a blue bicycle"), both the color change and the object replacement must be done without omissions.
- **Exclusivity of Edit (No Over-Editing):** Ensure that only the requested parts are changed. The rest of the image (as seen in the source) should remain unaltered. For example, if the instruction only involves replacing an object, the background, lighting, and unrelated objects should not be unnecessarily modified.

**Scoring Criteria:**
- **4 (Very Good):** Perfectly accurate, complete, and exclusive execution of the instruction.
- **3 (Relatively Good):** Largely correct, but with minor omissions or slight over-editing.
- **2 (Relatively Poor):** Major misinterpretation, incomplete edits, or noticeable unintended changes.
- **1 (Very Poor):** Instruction ignored or completely wrong execution.

Text instruction - {text_prompt}
""",  # noqa: E501
    "visual_quality": """\
You are tasked with evaluating an edited image **in comparison with the original source image** based on **Visual Quality & Realism**, and assigning a score from 1 to 4, with 1 being the worst and 4 being the best. This dimension focuses on how realistic, artifact-free, and aesthetically appealing the edited image is, while remaining consistent with the source image.

**Inputs Provided:**
- Source Image (before editing)
- Edited Image (after applying the instruction)
- Text Instruction

**Sub-Dimensions to Evaluate:**
- **Plausibility & Physical Consistency:** Check whether the edit aligns with the laws of physics and the scene context. Lighting, shadows, reflections, perspective, size, and interactions with the environment should all appear natural compared to the source image.
- **Artifact-Free Quality:** Look for technical flaws such as blur, distortions, pixel misalignment, unnatural textures, or seams around edited regions. High-quality results should be free from such visible artifacts.
- **Aesthetic Quality:** Evaluate the overall harmony and visual appeal. The image should look natural, balanced, and pleasant. Colors, composition, and atmosphere should enhance the image rather than degrade it.

**Scoring Criteria:**
- **4 (Very Good):** Perfectly realistic, artifact-free, seamless, and aesthetically pleasing.
- **3 (Relatively Good):** Mostly realistic and clean, with only minor flaws that do not significantly distract.
- **2 (Relatively Poor):** Noticeable physical inconsistencies or visible artifacts that make the edit unnatural.
- **1 (Very Poor):** Severe artifacts, incoherent composition, or visually unusable result.

Text instruction - {text_prompt}
""",  # noqa: E501
    "overall": """\
You are tasked with evaluating an edited image **in comparison with the original source image**, and assigning a score from 1 to 8, with 1 being the worst and 8 being the best. This score should reflect **both how accurately the instruction was followed and the visual quality of the edited image**.

**Inputs Provided:**
- Source Image (before editing)
- Edited Image (after applying the instruction)
- Text Instruction

**Dimension 1: Instruction Following & Semantic Fidelity**
Evaluate how well the edited image follows the given instruction. Consider the following sub-dimensions:
- **Semantic Accuracy:** Check if the edited content accurately captures the intended meaning of the instruction. For example, if the instruction is "replace apples with oranges," the object must clearly be oranges, not other fruits.
- **Completeness of Editing:** Verify that all aspects of the instruction are fully executed. Multi-step edits should be completely applied without omissions.
- **Exclusivity of Edit (No Over-Editing):** Ensure that only the requested changes are applied; the rest of the image should remain consistent with the source image without unintended modifications.

**Dimension 2: Visual Quality & Realism**
Evaluate the realism, technical quality, and aesthetic appeal of the edited image. Consider the following sub-dimensions:
- **Plausibility & Physical Consistency:** Check whether the edit aligns with natural laws and scene context (lighting, shadows, reflections, perspective, and object interactions).
- **Artifact-Free Quality:** Assess for technical flaws such as blur, distortions, pixel misalignment, unnatural textures, or seams around edited regions.
- **Aesthetic Quality:** Consider overall harmony and visual appeal. Colors, composition, atmosphere, and balance should enhance the image without degrading realism.

**Scoring Criteria (1-8):**
- **8 (Very Good):** Perfect instruction following and flawless visual quality; edits are accurate, complete, exclusive, and visually seamless.
- **7 (Relatively Good):** Very good instruction following and high visual quality; minor, non-distracting flaws.
- **6 (Good):** Good instruction following or mostly good visual quality; minor omissions or slight artifacts.
- **5 (Moderate):** Partially correct edits or moderate visual issues; noticeable flaws but understandable.
- **4 (Relatively Poor):** Significant misinterpretation, incomplete edits, or noticeable visual artifacts.
- **3 (Poor):** Major errors in instruction following and/or poor visual quality; hard to fully understand.
- **2 (Very Poor):** Very poor edits with large semantic errors and strong visual artifacts.
- **1 (Failed):** Completely wrong edits or visually unusable result.

Text instruction - {text_prompt}
""",  # noqa: E501
}

PAPER_REWARD_SUFFIX = "\nRating: <|Reward|>\n"
"""Text after a paper template for new models. Published weights bring their own."""

# One line per dimension for the compact prompt; a dimension that is not here is described by its name.
DIMENSION_RUBRICS = {
    "instruction_following": "instruction following: all that is asked is done, correctly, and nothing else",
    "visual_quality": "visual quality: the image is realistic, clean and pleasing, without artefacts",
    "consistency": "consistency: what the instruction does not mention stays as it was",
    "overall": "overall: the instruction is followed exactly and the image is of high quality",
}


def compact_template(dimensions: Sequence[str]) -> str:
    """Default prompt of the compact layout: a short rubric, `{text_prompt}`, and `{source}` for the source images.

    The instruction stands before the source: causal attention then lets every image be read in the light of it, and
    with `mrope` positions a place in the source is as far from the same place in an edit whatever its length.
    """
    rubric = "\n".join(f"- {DIMENSION_RUBRICS.get(name, name.replace('_', ' '))}" for name in dimensions)
    return (
        "Compare an edited image with its source. Rate the edit from 1 (very poor) to 4 (very good) on:\n"
        f"{rubric}\nInstruction: {{text_prompt}}\nSource image: {{source}}\nEdited image: "
    )


def clean_instruction(text: str) -> str:
    """An instruction as its writer meant it, whatever system, editor or spreadsheet it came through.

    - The invisible U+FEFF (byte order mark), U+200B (zero-width space) and U+2060 (word joiner) go, wherever they are.
    - Characters are composed (Unicode's NFC): `e` and a combining accent are one letter.
    - White space at both ends goes.
    - A run of white space with a line break in it is one `\\n`. Line breaks are `\\n`, `\\r`, `\\r\\n`, `\\v`, `\\f`,
      U+001C to U+001E, U+0085, U+2028 and U+2029.
    - Any other run of white space is one space: tabs, no-break spaces (U+00A0, U+202F), the ideographic one (U+3000)
      and all that `str.isspace` knows.

    Nothing else changes: neither letters, case and punctuation, nor the joiners of emoji. Twice is the same as once.
    """
    text = unicodedata.normalize("NFC", _INVISIBLE.sub("", text))
    return _BLANKS.sub(lambda run: "\n" if _LINE_BREAK.search(run[0]) else " ", text.strip())


@dataclass
class PackedGroup:
    """One edit group as one token sequence whose segments form a tree.

    A token attends, causally, to its own segment and to that segment's ancestors. Segments lie in the sequence with
    parents before children.

    Attributes:
        input_ids: Token ids, (sequence_length,).
        segment_ids: Segment of each token, (sequence_length,).
        segment_parents: Parent of each segment, (segments,); -1 for the root.
        position_ids: Temporal, height and width positions, (3, sequence_length).
        pixel_values: Patches of all images in order of appearance, (patches, patch_dim).
        image_grid_thw: Patch grid of each image, (images, 3).
        reward_columns: Place of each candidate's and dimension's reward token, (candidates, dimensions).
        broken: Why edited images were left out, by their position among those given.
    """

    input_ids: np.ndarray
    segment_ids: np.ndarray
    segment_parents: np.ndarray
    position_ids: np.ndarray
    pixel_values: torch.Tensor
    image_grid_thw: torch.Tensor
    reward_columns: np.ndarray
    broken: dict[int, ImageError] = dataclasses.field(default_factory=dict, kw_only=True)

    @property
    def num_tokens(self) -> int:
        """Tokens in the packed sequence."""
        return len(self.input_ids)

    def images(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Patches and patch grid of each image."""
        sizes = self.image_grid_thw.prod(-1).tolist()
        return list(zip(self.pixel_values.split(sizes), self.image_grid_thw, strict=True))

    def path_lengths(self) -> np.ndarray:
        """Tokens from the root to each leaf, as a sequence of its own would have, (candidates, dimensions)."""
        sizes = np.bincount(self.segment_ids, minlength=len(self.segment_parents))
        totals = sizes.copy()
        for segment, parent in enumerate(self.segment_parents):
            if parent >= 0:
                totals[segment] += totals[parent]
        return totals[self.segment_ids[self.reward_columns]]


class _Packer:
    """Appends tokens to the segments of one group and keeps count of positions."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.segments: list[int] = []
        self.positions: list[np.ndarray] = []
        self.parents: list[int] = []
        self.next_position: list[int] = []

    def open_segment(self, parent: int) -> int:
        self.parents.append(parent)
        self.next_position.append(self.next_position[parent] if parent >= 0 else 0)
        return len(self.parents) - 1

    def append(self, segment: int, ids: list[int], positions: np.ndarray, next_position: int) -> None:
        self.ids += ids
        self.segments += [segment] * len(ids)
        self.positions.append(positions)
        self.next_position[segment] = next_position


T = TypeVar("T")


class _LimitedTemplates:
    """What transformers renders chat templates with, Jinja's sandbox, within limits of size, steps and time.

    A chat template is a program that comes with a model. The sandbox keeps it from files and code, not from looping
    for ever or filling the memory. So whatever is stored, passed or returned is weighed, and loops are counted.
    """

    steps: int
    end: float

    @classmethod
    def render(cls, template: str, **variables: object) -> str:
        """The rendered template.

        Raises:
            ValueError: If the template is none, fails, or goes beyond a limit.
        """
        if not isinstance(template, str) or len(template) > MAX_TEMPLATE_CHARACTERS:
            raise ValueError(f"The chat template is no text of at most {MAX_TEMPLATE_CHARACTERS:,} characters.")
        original = _compile_jinja_template("").environment
        # A class of both, and a copy of the environment that is of that class: its filters, globals and tags stay.
        environment: Any = object.__new__(type("LimitedEnvironment", (cls, type(original)), {}))
        environment.__dict__.update(original.__dict__)
        environment.intercepted_binops = frozenset(("*", "**", "%"))
        environment.filters = {
            name: environment._weighing(original.filters[name]) for name in TEMPLATE_FILTERS & original.filters.keys()
        }
        environment.globals = {name: value for name, value in original.globals.items() if name != "lipsum"}
        environment.steps, environment.end = 0, time.monotonic() + MAX_TEMPLATE_SECONDS
        try:
            pieces, length = [], 0
            for piece in environment.from_string(template).generate(**variables):
                pieces.append(piece)
                length += len(piece)
                if length > MAX_TEMPLATE_CHARACTERS:
                    raise SecurityError(f"it makes more than {MAX_TEMPLATE_CHARACTERS:,} characters")
        except Exception as error:  # what a template does not find, Python raises in it
            raise ValueError(f"The chat template cannot be rendered: {error}.") from error
        return "".join(pieces)

    def tick(self) -> str:
        """Count a step."""
        self.steps += 1
        if self.steps > MAX_TEMPLATE_STEPS or time.monotonic() > self.end:
            raise SecurityError("it takes too many steps")
        return ""

    def weighed(self, value: T) -> T:
        """The value, unless it is too large once it is written out."""
        left = MAX_TEMPLATE_CHARACTERS
        values: list[object] = [value]
        while values:
            one = values.pop()
            left -= len(one) if isinstance(one, str) else one.bit_length() // 8 if isinstance(one, int) else 1
            if isinstance(one, (list, tuple, set, dict)):
                values.extend(one)
                values.extend(one.values() if isinstance(one, dict) else ())
            if left < 0 or len(values) > MAX_TEMPLATE_CHARACTERS:
                raise SecurityError(f"it makes a value of more than {MAX_TEMPLATE_CHARACTERS:,} characters")
        return value

    def _check_growth(self, name: str, text: Any, arguments: Sequence[Any]) -> None:
        """Raise for what would make far more of its arguments than they are."""
        if any(isinstance(one, int) and abs(one) > MAX_TEMPLATE_CHARACTERS for one in arguments):
            raise SecurityError(f"it asks {name} for more than {MAX_TEMPLATE_CHARACTERS:,} characters")
        if name == "replace" and len(arguments) > 1:
            size = str(text).count(str(arguments[0])) * len(str(arguments[1]))
        elif name == "join":
            joined = list(arguments[0]) if isinstance(text, str) and arguments else list(text)
            between = text if isinstance(text, str) and arguments else next(iter(arguments), "")
            size = sum(len(str(one)) + len(str(between)) for one in joined)
        else:
            size = 0
        if size > MAX_TEMPLATE_CHARACTERS:
            raise SecurityError(f"it makes a value of more than {MAX_TEMPLATE_CHARACTERS:,} characters")

    def _weighing(self, function: Callable[..., object]) -> Callable[..., object]:
        """A filter that weighs what it takes and returns."""

        @functools.wraps(function)  # with Jinja's marks of what it is passed first
        def weighing(*arguments: object, **named: object) -> object:
            self.tick()
            own = [one for one in arguments if not isinstance(one, (Environment, Context, EvalContext))]
            for one in (*own, *named.values()):
                self.weighed(one)
            if own and isinstance(own[0], (str, list, tuple)):
                self._check_growth(function.__name__.removeprefix("do_").removeprefix("sync_do_"), own[0], own[1:])
            self._check_growth("a filter", "", list(named.values()))
            return self.weighed(function(*arguments, **named))

        return weighing

    def call(self, context: Context, function: Callable[..., object], *arguments: object, **named: object) -> object:
        """Call what a template calls: functions and macros, and of texts the methods that templates need."""
        self.tick()
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        if owner is not self:
            for one in (*arguments, *named.values()):
                self.weighed(one)
            if name in ("format", "format_map") or (isinstance(owner, str) and name not in TEMPLATE_METHODS):
                raise SecurityError(f"it calls `{name}` of a text")
            self._check_growth(name, owner if isinstance(owner, str) else "", arguments if owner is not None else ())
            if name == "safe_range" and any(
                isinstance(one, int) and abs(one) > MAX_TEMPLATE_STEPS for one in arguments
            ):
                raise SecurityError("its range is too long")
        result = super().call(context, function, *arguments, **named)  # type: ignore[misc]
        return result if owner is self or isinstance(result, range) else self.weighed(result)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Multiply, raise or take a remainder where that stays small; no text is formatted."""
        number = next((one for one in (left, right) if isinstance(one, int)), 0)
        sized = next((one for one in (left, right) if hasattr(one, "__len__")), None)
        if sized is not None and (operator != "*" or len(sized) * number > MAX_TEMPLATE_CHARACTERS):
            raise SecurityError(f"`{operator}` makes too long a value")
        if operator == "**" and (abs(left) > 2**16 or abs(right) > 2**5):
            raise SecurityError("`**` makes too large a number")
        return self.weighed(super().call_binop(context, operator, left, right))  # type: ignore[misc]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """As in Jinja, with a step counted in every round of a loop and every call, and what is stored weighed."""
        template: nodes.Template = super()._parse(source, name, filename)  # type: ignore[misc]

        def calls(method: str, *arguments: nodes.Node) -> nodes.Call:
            return nodes.Call(nodes.EnvironmentAttribute(method), list(arguments), [], None, None)

        found: Any = template.find_all((nodes.For, nodes.Macro, nodes.CallBlock))
        for loop in list(found):
            loop.body.insert(0, nodes.Output([calls("tick")]))
        for assign in list(template.find_all(nodes.Assign)):
            assign.node = calls("weighed", assign.node)
        for scope in list(template.find_all(nodes.With)):
            scope.values = [calls("weighed", value) for value in scope.values]
        for block in list(template.find_all(nodes.AssignBlock)):
            block.filter = nodes.Filter(block.filter, "string", [], [], None, None)  # which weighs it, as all filters
        root: Any = template
        root.set_lineno(1).set_environment(self)
        return template


class EditRewardProcessor(ProcessorMixin):
    r"""
    Turns edit groups into the inputs of an [`EditRewardModel`].

    A group is one source (an image, or several for a multi-reference edit), one instruction and N edited images:

    ```python
    batch = processor(source="cat.png", edited=["a.png", "b.png"], instruction="give the cat a red hat")
    rewards = model(**batch).reward  # (2,)
    ```

    Args:
        image_processor (`Qwen2VLImageProcessorPil`): Resizes, normalises and cuts images into patches.
        tokenizer (`PreTrainedTokenizerBase`): The backbone's tokenizer with the reward tokens added.
        chat_template (`str`): The backbone's own, which makes the turn markup.
        dimensions (`list[str]`): What is judged, in the order of the model's outputs.
        layout (`str`): `compact` or `paper`; see [`EditRewardConfig`].
        position_scheme (`str`): `mrope` or `sequential`; see [`EditRewardConfig`].
        templates (`dict[str, str]`):
            Prompts. Layout paper: one per dimension, with `{text_prompt}` for the instruction. Layout compact: one,
            named `compact`, with `{source}` for the source images as well.
        reward_suffix (`str`): Layout paper: text after a template; it holds the token `<|Reward|>` once.
        system_prompt (`str`, *optional*): System turn. By default the chat template's own.
        image_token (`str`): The backbone's placeholder for one visual token.
        image_mode (`str`): How images become RGB, see [`load_image`].
        max_length (`int`, *optional*): The backbone's context, in tokens from the root to a leaf.
        jpeg_draft (`bool`): Decode large JPEG files at a reduced size: faster, but scores differ a little.
        instruction_mode (`str`):
            `clean` reads instructions as [`clean_instruction`] leaves them, so that a line end or a no-break space
            moves no score. `reference` reads them as they are, as published models were trained; a saved processor
            without this field does.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        dimensions: list[str] | None = None,
        layout: str = "compact",
        position_scheme: str = "mrope",
        templates: dict[str, str] | None = None,
        reward_suffix: str = PAPER_REWARD_SUFFIX,
        system_prompt: str | None = None,
        image_token: str = "<|image_pad|>",
        image_mode: str = "upright",
        max_length: int | None = None,
        jpeg_draft: bool = False,
        instruction_mode: str = "reference",
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template or tokenizer.chat_template)
        dimensions = DEFAULT_DIMENSIONS if dimensions is None else dimensions
        check_dimensions(dimensions)
        self.dimensions = list(dimensions)
        self.layout = layout
        self.position_scheme = position_scheme
        self.reward_suffix = reward_suffix
        self.system_prompt = system_prompt
        self.image_token = image_token
        self.image_mode = image_mode
        self.max_length = max_length
        self.jpeg_draft = jpeg_draft
        self.instruction_mode = instruction_mode
        _check_image_processor(image_processor)
        if max_length is not None and (type(max_length) is not int or max_length < 1):
            raise ValueError(f"`max_length` must be a positive number of tokens, got {max_length!r}.")
        texts = [reward_suffix, system_prompt or "", *(templates or {}).values()]
        if not all(isinstance(text, str) and len(text) <= MAX_TEMPLATE_CHARACTERS for text in texts):
            raise ValueError(f"Prompts must be texts of at most {MAX_TEMPLATE_CHARACTERS:,} characters.")
        check_choice("layout", layout, LAYOUTS)
        check_choice("position_scheme", position_scheme, POSITION_SCHEMES)
        check_choice("image_mode", image_mode, IMAGE_MODES)
        check_choice("instruction_mode", instruction_mode, INSTRUCTION_MODES)
        if self.chat_template is None:
            raise ValueError("The tokenizer has no chat template; pass the backbone's as `chat_template`.")
        self.templates = self._check_templates(templates)
        self.reward_tokens = reward_tokens(layout, self.dimensions)
        vocabulary = tokenizer.get_vocab()
        for token in [*self.reward_tokens, image_token]:
            if token not in vocabulary:
                raise ValueError(
                    f"The tokenizer has no token {token!r}. Build the processor with "
                    "`EditRewardProcessor.from_backbone`, which adds the reward tokens."
                )
        self.reward_token_ids = [vocabulary[token] for token in self.reward_tokens]
        self.image_token_id = vocabulary[image_token]
        self._special_ids = {
            str(token): index for index, token in tokenizer.added_tokens_decoder.items() if token.special
        }
        longest_first = sorted(self._special_ids, key=len, reverse=True)
        self._special_pattern = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        self._prompts: dict[int, tuple[str, str, list[str]]] = {}

    def _check_templates(self, templates: dict[str, str] | None) -> dict[str, str]:
        required: dict[str, tuple[str, ...]]
        if self.layout == "compact":
            templates = templates or {"compact": compact_template(self.dimensions)}
            required = {"compact": ("{source}", "{text_prompt}")}
        else:
            known = [name for name in self.dimensions if name in PAPER_TEMPLATES]
            templates = templates or {name: PAPER_TEMPLATES[name] for name in known}
            required = dict.fromkeys(self.dimensions, ("{text_prompt}",))
            if self.reward_suffix.count("<|Reward|>") != 1:
                raise ValueError(f"`reward_suffix` must hold '<|Reward|>' once, got {self.reward_suffix!r}.")
        for name, placeholders in required.items():
            if name not in templates:
                raise ValueError(f"`templates` has no entry {name!r}, which layout {self.layout!r} needs.")
            for placeholder in placeholders:
                if templates[name].count(placeholder) != 1:
                    raise ValueError(f"`templates[{name!r}]` must hold {placeholder!r} exactly once.")
            for token in (*reward_tokens(self.layout, self.dimensions), self.image_token):
                if token in templates[name]:
                    raise ValueError(f"`templates[{name!r}]` must not hold {token!r}, which is added to it.")
        unknown = sorted(set(templates) - set(required))
        if unknown:
            raise ValueError(f"`templates` has entries that layout {self.layout!r} does not use: {unknown}.")
        return dict(templates)

    # Construction

    @classmethod
    def from_backbone(
        cls,
        name_or_path: str | Path,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        dimensions: list[str] | None = None,
        layout: str = "compact",
        position_scheme: str = "mrope",
        templates: dict[str, str] | None = None,
        reward_suffix: str = PAPER_REWARD_SUFFIX,
        system_prompt: str | None = None,
        image_mode: str = "upright",
        instruction_mode: str = "clean",
        pixels: int = DEFAULT_PIXELS,
        hub_kwargs: Mapping[str, object] | None = None,
    ) -> "EditRewardProcessor":
        """Processor of a new reward model on the vision-language model `name_or_path` (a folder or Hub id).

        Args:
            tokenizer: One to use in place of the backbone's.
            pixels: Pixels that every image is resized to, as near as its aspect ratio allows.
            hub_kwargs: `revision`, `token`, `cache_dir` ... to load the backbone's files with.

        The other arguments are the class's own.
        """
        hub_kwargs = {"trust_remote_code": False, **(hub_kwargs or {})}
        config = AutoConfig.from_pretrained(name_or_path, **hub_kwargs)
        tokenizer = tokenizer or load_tokenizer(name_or_path, **hub_kwargs)
        image_processor = Qwen2VLImageProcessorPil.from_pretrained(name_or_path, **hub_kwargs)
        image_processor.size = {"shortest_edge": pixels, "longest_edge": pixels}
        dimensions = DEFAULT_DIMENSIONS if dimensions is None else dimensions
        check_choice("layout", layout, LAYOUTS)
        check_dimensions(dimensions)
        add_reward_tokens(tokenizer, layout, dimensions)
        chat_template = tokenizer.chat_template
        if chat_template is None:
            # Older repositories keep the chat template in a file of the processor's own.
            chat_template = cls.get_processor_dict(name_or_path, **hub_kwargs)[0].get("chat_template")
        return cls(
            image_processor,
            tokenizer,
            chat_template=chat_template,
            dimensions=dimensions,
            layout=layout,
            position_scheme=position_scheme,
            templates=templates,
            reward_suffix=reward_suffix,
            system_prompt=system_prompt,
            image_token=tokenizer.convert_ids_to_tokens(config.image_token_id),
            image_mode=image_mode,
            instruction_mode=instruction_mode,
            max_length=config.get_text_config().max_position_embeddings,
        )

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: str | Path, processor_dict: dict[str, Any] | None = None, **kwargs: object
    ) -> list[Qwen2VLImageProcessorPil | PreTrainedTokenizerBase]:
        # The image processor is built by class: an auto class would take the torchvision one where that is installed,
        # whose pixels differ.
        if not processor_dict or "image_processor" not in processor_dict:
            raise ValueError(
                f"{pretrained_model_name_or_path} has no EditReward processor (processor_config.json with an "
                "image processor). Save one beside the model with `processor.save_pretrained`."
            )
        settings = {k: v for k, v in processor_dict["image_processor"].items() if not k.endswith(("_type", "_class"))}
        settings.pop("auto_map", None)
        # `pipeline` passes what is for the model, too, and a tokenizer would keep and save it.
        kwargs = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
        # The tokenizer's own file names its class. Without a configuration given, the auto class would first load the
        # model's, and ask whether to trust its code.
        kwargs["config"] = PreTrainedConfig()
        tokenizer = load_tokenizer(pretrained_model_name_or_path, **kwargs)
        return [Qwen2VLImageProcessorPil(**settings), tokenizer]

    def check_config(self, config: EditRewardConfig) -> None:
        """Raise a `ValueError` unless a model of this configuration was made with a processor like this one."""
        for field in ("dimensions", "layout", "position_scheme"):
            ours, theirs = getattr(self, field), getattr(config, field)
            if ours != theirs:
                raise ValueError(
                    f"the model's `{field}` is {theirs!r}, the processor's is {ours!r}; load the processor that was "
                    "saved with this model."
                )

    # What TRL's trainer asks of a processing class

    @property
    def pad_token(self) -> str | None:
        return self.tokenizer.pad_token

    @pad_token.setter
    def pad_token(self, token: str) -> None:
        self.tokenizer.pad_token = token

    @property
    def pad_token_id(self) -> int | None:
        return self.tokenizer.pad_token_id

    @property
    def eos_token(self) -> str | None:
        return self.tokenizer.eos_token

    @eos_token.setter
    def eos_token(self, token: str) -> None:
        self.tokenizer.eos_token = token

    @property
    def eos_token_id(self) -> int | None:
        return self.tokenizer.eos_token_id

    def get_vocab(self) -> dict[str, int]:
        return self.tokenizer.get_vocab()

    @property
    def model_input_names(self) -> list[str]:
        return [
            "input_ids",
            "segment_ids",
            "segment_parents",
            "position_ids",
            "pixel_values",
            "image_grid_thw",
            "image_index",
            "reward_positions",
            "group_index",
            "plan",
        ]

    # Groups to tensors

    def __call__(
        self, source: Any, edited: Any, instruction: str | Sequence[str], return_tensors: str = "pt"
    ) -> BatchFeature:
        """Pack one group, or several given as lists, into tensors for the model.

        Args:
            source: The source image, or a list of them for a multi-reference edit. For several groups, a list of
                either.
            edited: A list of edited images, or a 4-D array or tensor of them. For several groups, a list of these.
            instruction: What was asked. For several groups, a list, or one for all of them. Special tokens in it are
                plain text.
            return_tensors: `pt`, PyTorch's; there are no others.

        Returns:
            `BatchFeature` of tensors, one row per group: `input_ids` and `segment_ids` (groups, sequence_length),
            padded with -1 in `segment_ids`; `segment_parents` (groups, segments); `position_ids` (3, groups,
            sequence_length); `pixel_values` (patches, patch_dim) and `image_grid_thw` (images, 3) of the images that
            differ; `image_index`, which of them stands in each place for one, (places,); `reward_positions`
            (candidates, dimensions, 2), a row and a column each; `group_index` (candidates,). And a `BatchPlan`,
            `plan`, which saves the model looking into these tensors.

        Raises:
            ImageError: If an image cannot be used.
            ValueError: If there is no candidate or the instruction is not a usable string.
        """
        check_choice("return_tensors", return_tensors, ("pt",))
        if isinstance(instruction, str) and is_several_groups(edited):
            instruction = [instruction] * len(edited)
        if isinstance(instruction, str) or not isinstance(instruction, Sequence):
            return self.collate([self.pack(source, edited, instruction)])
        source, edited = unstacked(source, 4), unstacked(edited, 5)
        for field, value in (("source", source), ("edited", edited)):
            if not isinstance(value, (list, tuple)) or len(value) != len(instruction):
                raise ValueError(
                    f"`instruction` is a list of {len(instruction)} groups' instructions; `{field}` must be a list of "
                    f"as many entries, got {len(value) if isinstance(value, (list, tuple)) else type(value).__name__}."
                )
        if not instruction:
            raise ValueError("There is no group to score: `instruction` is an empty list.")
        groups = zip(source, edited, instruction, strict=True)
        return self.collate([self.pack(*group, name=f"groups[{i}].") for i, group in enumerate(groups)])

    def pack(
        self, source: object, edited: object, instruction: str, name: str = "", skip_broken: bool = False
    ) -> PackedGroup:
        """Pack one group; see `__call__` for what is not here.

        Args:
            name: Goes before field names in error messages.
            skip_broken: Leave out edited images that cannot be used, unless none is left; the group's `broken` has
                them.
        """
        if not isinstance(instruction, str):
            raise ValueError(f"{name}instruction must be a string, got {type(instruction).__name__}.")
        if re.search("[\ud800-\udfff]", instruction):
            raise ValueError(f"{name}instruction is not valid text: it holds half of a surrogate pair.")
        if not clean_instruction(instruction):
            raise ValueError(f"{name}instruction is empty. Say what the edit was meant to do.")
        sources = list(source) if isinstance(source, (list, tuple)) else [source]
        candidates = image_list(edited)
        if not sources:
            raise ValueError(f"{name}source is an empty list. Pass the image that was edited.")
        if not candidates:
            raise ValueError(f"{name}edited is an empty list. Pass at least one edited image.")
        images, broken = self._images(sources, candidates, name, skip_broken)
        patches = self.image_processor(images=images, do_resize=False, return_tensors="pt")
        grids = patches["image_grid_thw"].tolist()
        count = len(candidates) - len(broken)

        root_prompt, candidate_prompt, leaf_prompts = self._prompt(len(sources))
        root_parts = self._tokenize(root_prompt, instruction)
        candidate_parts = self._tokenize(candidate_prompt, instruction)
        leaves_parts = [self._tokenize(prompt, instruction) for prompt in leaf_prompts]
        remaining = iter(grids)
        packer = _Packer()
        root = packer.open_segment(-1)
        self._append(packer, root, root_parts, remaining)
        for _ in range(count):
            segment = packer.open_segment(root)
            self._append(packer, segment, candidate_parts, remaining)
            for leaf_parts in leaves_parts:
                self._append(packer, packer.open_segment(segment), leaf_parts, remaining)

        ids = np.array(packer.ids, dtype=np.int64)
        is_reward = np.isin(ids, self.reward_token_ids)
        group = PackedGroup(
            input_ids=ids,
            segment_ids=np.array(packer.segments, dtype=np.int64),
            segment_parents=np.array(packer.parents, dtype=np.int64),
            position_ids=np.concatenate(packer.positions, axis=1),
            pixel_values=patches["pixel_values"],
            image_grid_thw=patches["image_grid_thw"],
            reward_columns=np.flatnonzero(is_reward).reshape(count, len(self.dimensions)),
            broken=broken,
        )
        longest = int(group.path_lengths().max())
        if self.max_length is not None and longest > self.max_length:
            raise ValueError(name + self._too_long(longest, self.max_length, len(sources), instruction))
        return group

    def _too_long(self, tokens: int, limit: int, num_sources: int, instruction: str) -> str:
        """What is wrong with a group of which a candidate's path has too many tokens, and how to mend it."""
        if tokens - len(self._tokenize(_INSTRUCTION, instruction)[0]) <= limit:
            fault, mend = "instruction is too long", "Shorten the instruction."
        elif num_sources > 1:
            fault, mend = f"source has too many images, {num_sources}", "Pass fewer source images."
        else:
            fault = "images and rubric are too long, whatever the instruction"
            mend = "Lower the pixels of an image (`processor.image_processor.size`), or shorten the templates."
        return (
            f"{fault}: with images, rubric and instruction the sequence has {tokens} tokens, and the model's context "
            f"has {limit}. {mend}"
        )

    def _images(
        self, sources: Sequence[object], candidates: Sequence[object], name: str, skip_broken: bool
    ) -> tuple[list[Image.Image], dict[int, ImageError]]:
        """The images of a group as the model sees them, and what is wrong with candidates that are left out."""
        source_names = [f"{name}source[{i}]" if len(sources) > 1 else f"{name}source" for i in range(len(sources))]
        # One after another: no two are in memory as large as they came.
        images = [self.prepare(image, image_name) for image, image_name in zip(sources, source_names, strict=True)]
        broken: dict[int, ImageError] = {}
        for index, image in enumerate(candidates):
            try:
                images.append(self.prepare(image, f"{name}edited[{index}]"))
            except ImageError as error:
                if not skip_broken:
                    raise
                broken[index] = error
        if len(broken) == len(candidates):
            raise broken[0]
        return images, broken

    def prepare(self, image: object, name: str = "image") -> Image.Image:
        """An image as the model sees it: RGB by `image_mode`, resized to the pixel budget.

        Takes and raises what `load_image` does.
        """
        settings = self.image_processor
        draft_pixels = settings.size["longest_edge"] if self.jpeg_draft else None
        loaded = load_image(image, name, self.image_mode, draft_pixels)
        if not settings.do_resize:
            return loaded
        height, width = smart_resize(
            loaded.height,
            loaded.width,
            factor=settings.patch_size * settings.merge_size,
            min_pixels=settings.size["shortest_edge"],
            max_pixels=settings.size["longest_edge"],
        )
        return loaded.resize((width, height), settings.resample)

    def count_tokens(
        self, source_sizes: Sequence[Sequence[int]], edited_sizes: Sequence[Sequence[int]], instruction: str
    ) -> tuple[int, list[int]]:
        """How many tokens `pack` would make, without the images.

        Args:
            source_sizes: Height and width of each source image, in pixels; see `image_size`.
            edited_sizes: The same of each edited image.
            instruction: What was asked.

        Returns:
            The tokens before the candidates, and those of each candidate. The packed group has their sum.
        """

        def image_tokens(sizes: Sequence[Sequence[int]]) -> list[int]:
            patches = self.image_processor.get_number_of_image_patches
            return [patches(height, width) // self.image_processor.merge_size**2 for height, width in sizes]

        root, *parts = self._text_tokens(len(source_sizes), instruction)
        return root + sum(image_tokens(source_sizes)), [sum(parts) + count for count in image_tokens(edited_sizes)]

    def _text_tokens(self, num_sources: int, instruction: str) -> list[int]:
        """Tokens, without those of images, of the root, of a candidate and of each leaf under it."""
        root_prompt, candidate_prompt, leaf_prompts = self._prompt(num_sources)
        return [
            sum(map(len, self._tokenize(prompt, instruction)))
            for prompt in (root_prompt, candidate_prompt, *leaf_prompts)
        ]

    def collate(self, groups: Sequence[PackedGroup], share_images: bool = True) -> BatchFeature:
        """Pad packed groups on the right into one batch; see `__call__` for what it holds.

        Equal images are there once, unless `share_images` is false.
        """
        length = max(group.num_tokens for group in groups)
        segments = max(len(group.segment_parents) for group in groups)
        input_ids = np.full((len(groups), length), self.pad_token_id or 0, dtype=np.int64)
        segment_ids = np.full((len(groups), length), -1, dtype=np.int64)
        segment_parents = np.full((len(groups), segments), -1, dtype=np.int64)
        position_ids = np.zeros((3, len(groups), length), dtype=np.int64)
        reward_positions, group_index = [], []
        for row, group in enumerate(groups):
            input_ids[row, : group.num_tokens] = group.input_ids
            segment_ids[row, : group.num_tokens] = group.segment_ids
            segment_parents[row, : len(group.segment_parents)] = group.segment_parents
            position_ids[:, row, : group.num_tokens] = group.position_ids
            reward_positions.append(np.stack([np.full_like(group.reward_columns, row), group.reward_columns], axis=-1))
            group_index += [row] * len(group.reward_columns)
        images = [image for group in groups for image in group.images()]
        distinct, image_index = _distinct(images) if share_images else (images, list(range(len(images))))
        patches, grids = zip(*distinct, strict=True)
        batch = {
            "input_ids": torch.from_numpy(input_ids),
            "segment_ids": torch.from_numpy(segment_ids),
            "segment_parents": torch.from_numpy(segment_parents),
            "position_ids": torch.from_numpy(position_ids),
            "pixel_values": torch.cat(patches),
            "image_grid_thw": torch.stack(grids),
            "image_index": torch.tensor(image_index),
            "reward_positions": torch.from_numpy(np.concatenate(reward_positions)),
            "group_index": torch.tensor(group_index),
        }
        sizes = (batch["image_grid_thw"].prod(-1) // self.image_processor.merge_size**2).tolist()
        plan = BatchPlan.of(batch["input_ids"], batch["segment_parents"], self.image_token_id, sizes, image_index)
        plan.blocks = TreeBlocks.of(batch["segment_ids"], plan.ancestors)
        return BatchFeature({**batch, "plan": plan})

    def _prompt(self, num_sources: int) -> tuple[str, str, list[str]]:
        """Rendered text of the root, of a candidate and of each leaf under a candidate (compact: no leaves)."""
        if num_sources not in self._prompts:
            self._prompts[num_sources] = self._render(num_sources)
        return self._prompts[num_sources]

    def _render(self, num_sources: int) -> tuple[str, str, list[str]]:
        images = [{"type": "image"}] * num_sources
        if self.layout == "compact":
            before, after = self.templates["compact"].split("{source}")
            content = [_text(before), *images, _text(after), {"type": "image"}, _text("".join(self.reward_tokens))]
            root, rest = self._render_turns(content)
            # Nothing reads what follows the last reward token.
            last = self.reward_tokens[-1]
            return root, self.image_token + rest[: rest.index(last) + len(last)], []
        texts = [_text(self.templates[name] + self.reward_suffix) for name in self.dimensions]
        prompts = [self._render_turns([*images, {"type": "image"}, text]) for text in texts]
        roots, leaves = zip(*prompts, strict=True)
        return roots[0], self.image_token, list(leaves)

    def reply_prompt(self, num_sources: int, request: str, instruction: str) -> list[int]:
        """Token ids from behind an edited image to where the assistant's reply to `request` begins.

        Args:
            num_sources: Number of source images.
            request: What follows the edited image in the user's turn, with `{text_prompt}` for the instruction.
            instruction: What was asked. Special tokens in it are plain text.
        """
        content = [*([{"type": "image"}] * (num_sources + 1)), _text(request)]
        if self.layout == "compact":
            before, after = self.templates["compact"].split("{source}")
            content = [_text(before), *content[:num_sources], _text(after), *content[num_sources:]]
        (ids,) = self._tokenize(self._render_turns(content)[1], instruction)
        return ids

    def _render_turns(self, content: list[dict[str, str]]) -> tuple[str, str]:
        """Text of the turns before and after the edited image, the last one of the user's `content`."""
        messages: list[dict[str, object]] = [{"role": "user", "content": content}]
        if self.system_prompt is not None:
            messages.insert(0, {"role": "system", "content": [_text(self.system_prompt)]})
        rendered = _LimitedTemplates.render(
            self.chat_template,
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=True,
            **self.tokenizer.special_tokens_map,
        )
        texts = [""]  # before, between and after the images
        for part in content:
            if part["type"] == "image":
                texts.append("")
            else:
                texts[-1] += part["text"]
        pieces = rendered.split(self.image_token)
        # Some chat templates trim texts.
        if len(pieces) != len(texts) or any(
            text.strip() not in piece for text, piece in zip(texts, pieces, strict=True)
        ):
            raise ValueError(
                "The chat template does not keep images and texts of a user turn in order, so that a group cannot be "
                "split into segments. Pass another as `chat_template`."
            )
        return self.image_token.join(pieces[:-1]), pieces[-1]

    def prefix_ids(self) -> list[int]:
        """Token ids that groups begin with, whatever their images and, for nearly all, their instruction."""
        prompt = self._prompt(1)[0]
        return list(commonprefix([self._tokenize(prompt, text)[0] for text in ("a", "7", "\n", "\u6362")]))

    def _tokenize(self, prompt: str, instruction: str) -> list[list[int]]:
        """Token ids of a rendered prompt, as runs between image tokens. The instruction is only ever plain text."""
        if self.instruction_mode == "clean":
            instruction = clean_instruction(instruction)
        runs: list[list[int]] = [[]]
        for piece in self._special_pattern.split(prompt):
            if piece == self.image_token:
                runs.append([])
            elif piece in self._special_ids:
                runs[-1].append(self._special_ids[piece])
            elif piece:
                text = piece.replace(_INSTRUCTION, instruction)
                runs[-1] += self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return runs

    def _append(self, packer: _Packer, segment: int, runs: list[list[int]], grids: Iterator[list[int]]) -> None:
        """Append token runs with an image between each two; `grids` yields the patch grid of the next image."""
        merge = self.image_processor.merge_size
        for index, run in enumerate(runs):
            start = packer.next_position[segment]
            if index > 0:
                _, height, width = next(grids)
                rows, columns = height // merge, width // merge
                count = rows * columns
                if self.position_scheme == "sequential":
                    positions = np.broadcast_to(start + np.arange(count), (3, count))
                    start += count
                else:
                    grid = np.indices((1, rows, columns)).reshape(3, count)
                    positions = start + grid
                    start += max(rows, columns)
                packer.append(segment, [self.image_token_id] * count, positions, start)
            positions = np.broadcast_to(start + np.arange(len(run)), (3, len(run)))
            packer.append(segment, run, positions, start + len(run))


def _distinct(
    images: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], list[int]]:
    """Images, as patches and grid, without repetitions, and the place of each one among them."""
    distinct: list[tuple[torch.Tensor, torch.Tensor]] = []
    index: list[int] = []
    places: dict[tuple[float, ...], list[int]] = {}
    for patches, grid in images:
        # Sums find the few to compare with.
        alike = places.setdefault((patches.sum().item(), *grid.tolist()), [])
        place = next((i for i in alike if torch.equal(distinct[i][0], patches)), len(distinct))
        if place == len(distinct):
            distinct.append((patches, grid))
            alike.append(place)
        index.append(place)
    return distinct, index


def is_several_groups(edited: Any) -> bool:
    """Whether `edited` is a list whose entries are each a group's edited images, or a 5-D array or tensor of these."""
    groups = unstacked(edited, 5)
    return isinstance(groups, (list, tuple)) and bool(groups) and all(_is_several_images(one) for one in groups)


def _is_several_images(edited: Any) -> bool:
    return isinstance(unstacked(edited, 4), (list, tuple))


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text.replace("{text_prompt}", _INSTRUCTION)}


def _check_image_processor(images: Qwen2VLImageProcessorPil) -> None:
    """Raise a `ValueError` for settings that no model has, and that would need memory without end."""
    sizes = [images.patch_size, images.merge_size, images.temporal_patch_size]
    if not all(type(size) is int and 1 <= size <= MAX_PATCH_SIZE for size in sizes):
        raise ValueError(f"The image processor's patches are {sizes}; whole numbers from 1 to {MAX_PATCH_SIZE} serve.")
    size = dict(images.size or {})
    edges = [size.get("shortest_edge"), size.get("longest_edge")]
    if not all(type(edge) is int and 1 <= edge <= MAX_RESIZED_PIXELS for edge in edges):
        raise ValueError(f"The image processor's `size` is {size}; at most {MAX_RESIZED_PIXELS:,} pixels serve.")
    numbers = [images.rescale_factor, *images.image_mean, *images.image_std]
    if not all(map(is_number, numbers)) or not all(std > 0 for std in images.image_std):
        raise ValueError("The image processor's mean, standard deviation and scale must be finite numbers.")


def add_reward_tokens(tokenizer: PreTrainedTokenizerBase, layout: str, dimensions: Sequence[str]) -> None:
    """Add the reward tokens of a layout to a tokenizer that lacks them, as special tokens."""
    tokens = list(dict.fromkeys(reward_tokens(layout, list(dimensions))))
    tokenizer.add_special_tokens({"extra_special_tokens": tokens}, replace_extra_special_tokens=False)


EditRewardProcessor.register_for_auto_class()

__all__ = [
    "EditRewardProcessor",
    "ImageError",
    "PackedGroup",
    "clean_instruction",
    "image_size",
    "is_several_groups",
    "load_image",
]
