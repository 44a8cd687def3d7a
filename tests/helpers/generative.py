"""The tiny vision-language models of the golden data of EditScore, and what their published prompts are."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import PIL
import torch

from editreward.scorers.generative.adapters import merged_folder
from editreward.scorers.generative.engine import Engine
from editreward.scorers.generative.images import ImageReader, ImageRoute
from editreward.scorers.generative.loading import Writer, load_writer
from editreward.scorers.generative.tokens import PromptTokenizer, PromptTokens
from editreward.scorers.prompts import PromptSet, load_prompt_set
from editreward.scorers.prompts.importing import import_prompts
from tests.helpers.editscore import GOLDEN, golden

MODELS = ("qwen25", "qwen3")
OLD_PILLOW = int(PIL.__version__.split(".")[0]) < 13
"""The data were made with Pillow 13, which resizes the images of case 0 otherwise, by one level."""

_folder = tempfile.TemporaryDirectory(prefix="editreward-tests-generative-")
FOLDER = Path(_folder.name)


@cache
def published_prompts(name: str = "editscore", score_range: int = 25) -> PromptSet:
    """EditScore's structure with the neutral texts of the golden data."""
    made = import_prompts(GOLDEN / "cases.json", name, FOLDER / f"{name}.yaml")
    if score_range == 25:
        return made
    texts = FOLDER / f"{name}-{score_range}.yaml"
    texts.write_text((FOLDER / f"{name}.yaml").read_text().replace("0-25", f"0-{score_range}"))
    return load_prompt_set(texts)


@cache
def writer(model: str, adapter: str | None = None, dtype: torch.dtype = torch.float32) -> Writer:
    """A golden model, with an adapter merged in float32 or none."""
    base = GOLDEN / model / "base"
    if adapter is None:
        return load_writer(str(base), dtype)
    return load_writer(str(merged_folder(base, GOLDEN / model / adapter, FOLDER / "merged", dtype)), dtype)


@cache
def engine(model: str, adapter: str | None = None) -> Engine:
    made = writer(model, adapter)
    return Engine(made.model, made.end_ids)


@cache
def reader(model: str, route: ImageRoute = "published") -> ImageReader:
    made = writer(model)
    return ImageReader(made.image_processor, made.model.config.model_type, route)


@cache
def patches(model: str, image: str, route: ImageRoute = "published") -> Any:
    return reader(model, route)(GOLDEN / "images" / image)


def prompt_tokens(
    model: str, case: int, prompt: str, *, batch: bool = False, prompts: PromptSet | None = None
) -> PromptTokens:
    """A golden case's prompt, as `evaluate` or `batch_evaluate` asks it."""
    made, row = writer(model), golden()["cases"][case]
    prompts = prompts or published_prompts("editscore-batch" if batch else "editscore")
    images = [patches(model, image, "published_batch" if batch else "published") for image in row["images"]]
    tokenizer = PromptTokenizer(made.tokenizer, made.model.config.model_type, "<|image_pad|>", made.chat_template)
    shown = {"source": images[:-1], "edited": images[-1:]}
    return tokenizer(prompts, prompts[prompt], row["instruction"], shown)
