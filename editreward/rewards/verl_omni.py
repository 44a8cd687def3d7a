"""verl-omni: `async def compute_score(data_source, solution_image, ground_truth, extra_info, **kwargs)`.

    reward.custom_reward_function.path=pkg://editreward.rewards.verl_omni
    reward.custom_reward_function.name=compute_score

or, beside other rewards, with `required=true`: without it that manager turns every exception into a reward of 0.

    reward.reward_manager.name=MultiVisualRewardManager
    +reward.reward_functions.edit.path=pkg://editreward.rewards.verl_omni
    +reward.reward_functions.edit.name=compute_score
    +reward.reward_functions.edit.required=true
    +reward.reward_functions.edit.server_url=http://127.0.0.1:8000
    +reward.reward_functions.edit.image_root=data/images

The framework passes one edit at a time and no source: that is looked up by `extra_info["image"]` below `image_root`,
and put on a white square as the framework's `prepare_data.py` does for the editor.
"""

import asyncio
import threading
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from PIL import Image, ImageOps

from editreward.client import AsyncClient, NoReward
from editreward.groups import EditGroup
from editreward.rewards.inputs import file_bytes, to_image
from editreward.rewards.reward import Reward, RewardError, checked
from editreward.rewards.sources import load_reward, token_of
from editreward.scorers.batching import Batcher
from images_editreward import load_image

IMAGE_SIZE = 512
_CLIENTS: "WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str | None], AsyncClient]]" = (
    WeakKeyDictionary()
)
_LOADING = threading.Lock()


async def compute_score(
    data_source: str,
    solution_image: object,
    ground_truth: str,
    extra_info: Mapping[str, Any],
    *,
    server_url: str | None = None,
    token_file: str | None = None,
    timeout: float = 600.0,
    scorer: str | None = None,
    shaping: str | None = None,
    image_root: str | None = None,
    image_size: int | None = IMAGE_SIZE,
    **unused: object,
) -> dict[str, float]:
    """The reward of one edit. Calls at the same time share passes through the model, here as on the server.

    Args:
        data_source: is not looked at.
        solution_image: the edit, a uint8 tensor (channels, height, width).
        ground_truth: the instruction.
        extra_info: `image`, a file below `image_root`; or `source_bytes`, the source's file itself.
        server_url, token_file, timeout: of `editreward serve`.
        scorer, shaping: without a server, what `--scorer` takes and a YAML file.
        image_root: folder of the source images.
        image_size: side of the white square that the source is put on; None leaves it as it is.
        unused: what the framework passes to other rewards.

    Returns:
        `score`, and each dimension's mean as a metric.

    Raises:
        ValueError: the source cannot be found.
        NoReward, RewardError: the edit failed. A number in its place would be learnt from.
        ServerError: there was no answer in time.
    """
    source = await asyncio.to_thread(source_of, extra_info, image_root, image_size)
    edit = to_image(solution_image, "solution_image")
    if server_url is not None:
        return await _from_server(source, edit, ground_truth, server_url, token_file, timeout)
    with _LOADING:
        reward, batcher = _in_process(scorer, shaping)
    group = EditGroup([source], ground_truth, [edit])
    (future,) = batcher.submit([group])
    answer = checked(reward.scorers[0], group, await asyncio.wrap_future(future))
    values, failed = reward.shape([answer], 1)
    if failed:
        raise RewardError(failed, 1)
    (candidate,) = answer.scores  # type: ignore[union-attr]
    return {"score": float(values[0])} | {name: one.mean for name, one in candidate.dimensions.items()}


def source_of(extra_info: Mapping[str, Any], image_root: str | None, image_size: int | None) -> Image.Image:
    """The source image as the editor saw it.

    Raises:
        ValueError: `extra_info` does not say which it is, or the file is outside of `image_root` or cannot be read.
    """
    if extra_info.get("source_bytes") is not None:
        return _prepared(extra_info["source_bytes"], image_size)
    if extra_info.get("image") and image_root is not None:
        root = Path(image_root).resolve()
        file = (root / str(extra_info["image"])).resolve()
        if not file.is_relative_to(root):
            raise ValueError(f"The source {extra_info['image']!r} is outside of `image_root`.")
        return _prepared(file_bytes(file, "the source"), image_size)
    raise ValueError(
        'An edit cannot be judged without its source: give `image_root` for extra_info["image"], or put '
        '"source_bytes" into extra_info when preparing the data.'
    )


@lru_cache(maxsize=64)  # each edit of a group asks for its source
def _prepared(content: bytes, image_size: int | None) -> Image.Image:
    image = load_image(content, "source")
    return on_white_square(image, image_size) if image_size else image


def on_white_square(image: Image.Image, size: int) -> Image.Image:
    """The image as large as fits a white square, in its middle."""
    square = Image.new("RGB", (size, size), "white")
    inner = ImageOps.contain(image, (size, size), method=Image.Resampling.LANCZOS)
    square.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    return square


async def _from_server(
    source: Image.Image, edit: object, instruction: str, url: str, token_file: str | None, timeout: float
) -> dict[str, float]:
    clients = _CLIENTS.setdefault(asyncio.get_running_loop(), {})
    if (url, token_file) not in clients:
        clients[url, token_file] = AsyncClient(url, token=token_of(token_file), timeout=timeout)
    group: dict[str, object] = {"sources": [source], "instruction": instruction, "edited": [edit]}
    (answer,) = await clients[url, token_file].score([group])
    (candidate,) = answer["candidates"]
    if candidate["shaped"] is None:
        raise NoReward({0: candidate["error"]}, 1)
    return {"score": candidate["shaped"]} | {name: one["mean"] for name, one in candidate["dimensions"].items()}


@cache
def _in_process(scorer: str | None, shaping: str | None) -> tuple[Reward, Batcher]:
    """Loaded once per process."""
    reward = load_reward(scorer, shaping)
    return reward, Batcher(reward.scorers[:1], max_wait=0.01)
