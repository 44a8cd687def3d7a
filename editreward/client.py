"""Client of an EditReward server in one file: httpx and Pillow are enough (numpy for arrays), from Python 3.10 on.

Frameworks that pin old releases of transformers cannot install the package: `editreward serve --write-client FILE`
writes this file for them.

    client = Client("http://127.0.0.1:8000", token="...")
    client.rewards(sources=[cat, cat], edited=[first, second], instructions=["give the cat a red hat"] * 2)

Reward functions for frameworks: `flow_grpo_reward` (also DiffusionNFT), `edit_r1_reward`, `evaluate_images`
(OmniGen2-RL).
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import httpx
from PIL import Image, ImageOps

if TYPE_CHECKING:
    import numpy as np

TIMEOUT_HEADER = "X-Timeout-Seconds"
"""Tells the server how long the client will wait: a request past that costs no pass through the model."""

RETRIED = {408, 425, 429, 500, 502, 503, 504}
"""Statuses that may be another one the next time. Scores are the same however often they are asked for."""

FAILED_TRIES = 4
"""Tries of a request that the server fails at (500, 504); overload and lost connections are retried to the end."""

FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0
"""Seconds before the second try, doubled for each further one, and their limit."""

EDITS_PER_REQUEST = 64
BYTES_PER_REQUEST = 48 * 2**20
"""Of images in base64; a server takes 64 MiB unless it is told otherwise."""

FLOAT_MARGIN = 0.02
"""Floats so far outside of 0..1, which decoders make, are clamped; others are refused."""


class ServerError(RuntimeError):
    """The server could not or would not answer.

    Attributes:
        status: of the last answer; None if there was none.
        fields: what is wrong where, as the server says it: a list of `{"field", "reason"}`.
    """

    def __init__(self, message: str, status: int | None = None, fields: Sequence[dict[str, str]] = ()) -> None:
        super().__init__(message)
        self.status, self.fields = status, list(fields)


class NoReward(RuntimeError):
    """Some edits have no reward; a framework's list has no place for that.

    Attributes:
        reasons: why, by position of the edit.
    """

    def __init__(self, reasons: dict[int, str], count: int) -> None:
        index, reason = next(iter(sorted(reasons.items())))
        super().__init__(f"{len(reasons)} of {count} edits have no reward; edit {index}: {reason}")
        self.reasons = reasons


# Images and requests


def encode(image: object) -> bytes:
    """The bytes of an image file, without loss.

    Args:
        image: a PIL image, the bytes of a file, a path, a uint8 array or tensor (height, width, channels) or
            (channels, height, width), or floats of 0..1 in one of these shapes.

    Raises:
        ValueError: floats are outside of 0..1, or the array has another shape or type.
    """
    if isinstance(image, (bytes, bytearray)):
        return bytes(image)
    if isinstance(image, (str, os.PathLike)):
        with open(image, "rb") as file:
            return file.read()
    if not isinstance(image, Image.Image):
        image = Image.fromarray(_pixels(image))
    content = io.BytesIO()
    try:
        image.save(content, "PNG", compress_level=1, exif=image.getexif())
    except OSError:  # CMYK, floats and other modes that PNG has not
        content = io.BytesIO()
        ImageOps.exif_transpose(image).save(content, "TIFF")
    return content.getvalue()


def _pixels(image: object) -> np.ndarray:
    """An array or tensor as uint8, channels last."""
    import numpy as np

    if hasattr(image, "detach"):
        tensor = image.detach().cpu()
        image = tensor.float().numpy() if tensor.dtype.is_floating_point else tensor.numpy()
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[-1] not in (1, 3, 4):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        raise ValueError(f"an image has the shape {array.shape}; pass (height, width, channels) or channels first")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind != "f":
        raise ValueError(f"an image holds values of type {array.dtype}; pass uint8, or floats of 0..1")
    low, high = float(array.min()), float(array.max())
    if not (-FLOAT_MARGIN <= low and high <= 1 + FLOAT_MARGIN):  # of a NaN, too
        raise ValueError(f"an image holds floats from {low:.3g} to {high:.3g}; pass 0..1")
    return np.ascontiguousarray((array.clip(0, 1) * 255).round().astype(np.uint8))


def text_of(image: object) -> str:
    """An image as requests carry it: base64 of `encode`."""
    return base64.b64encode(encode(image)).decode("ascii")


def gathered(
    sources: Sequence[object], edited: Sequence[object], instructions: Sequence[str]
) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """Groups of a request, and the positions of their candidates among the edits.

    Edits of one source and one instruction are a group; the text alone does not make one.

    Raises:
        ValueError: the arguments have different lengths, or an image cannot be encoded; it is named.
    """
    if not len(sources) == len(edited) == len(instructions):
        sizes = f"{len(sources)} sources, {len(edited)} edited images and {len(instructions)} instructions"
        raise ValueError(f"There must be one of each for every edit, not {sizes}.")
    # A loop repeats the source's object for each of its edits. It is kept: else its id is given away again.
    known: dict[int, tuple[object, str]] = {}
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    places: dict[tuple[str, ...], list[int]] = {}
    for index, (source, edit, instruction) in enumerate(zip(sources, edited, instructions, strict=True)):
        images = list(source) if isinstance(source, (list, tuple)) else [source]
        try:
            texts = [known[id(one)][1] if id(one) in known else text_of(one) for one in images]
            candidate = text_of(edit)
        except (ValueError, OSError) as error:
            raise ValueError(f"Edit {index}: {error}") from error
        if hasattr(source, "save"):  # of arrays a loop makes views
            known[id(source)] = source, texts[0]
        key = (instruction, *texts)
        group = groups.setdefault(key, {"sources": texts, "instruction": instruction, "edited": []})
        group["edited"].append(candidate)
        places.setdefault(key, []).append(index)
    return list(groups.values()), list(places.values())


def portions(
    groups: Sequence[dict[str, Any]], edits: int = EDITS_PER_REQUEST, size: int = BYTES_PER_REQUEST
) -> Iterator[list[dict[str, Any]]]:
    """Groups in requests of at most so many edits and bytes of images.

    A larger group is a request of its own: its edits are compared, so that parts of it would get other rewards.
    """
    part: list[dict[str, Any]] = []
    held = 0
    for group in groups:
        length = sum(map(len, [*group["sources"], *group["edited"]]))
        if part and (sum(len(one["edited"]) for one in [*part, group]) > edits or held + length > size):
            yield part
            part, held = [], 0
        part.append(group)
        held += length
    if part:
        yield part


def rewards_of(results: Sequence[dict[str, Any]], places: Sequence[Sequence[int]]) -> list[float]:
    """Rewards in the order of the edits.

    Raises:
        NoReward: some failed.
    """
    rewards: dict[int, float] = {}
    reasons: dict[int, str] = {}
    for result, members in zip(results, places, strict=True):
        for index, candidate in zip(members, result["candidates"], strict=True):
            if candidate["shaped"] is None:
                reasons[index] = str(candidate["error"])
            else:
                rewards[index] = float(candidate["shaped"])
    if reasons:
        raise NoReward(reasons, len(rewards) + len(reasons))
    return [rewards[index] for index in sorted(rewards)]


# The clients


class _Connection:
    """What both clients share: address, headers, and when to try again."""

    def __init__(self, url: str, token: str | None, timeout: float) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"The address {url!r} must begin with http:// or https://.")
        self.url, self.timeout = url.rstrip("/"), timeout
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}

    def tries(self, path: str) -> _Tries:
        return _Tries(f"{self.url}{path}", self.timeout)


class _Tries:
    """The tries of one request, until a deadline."""

    def __init__(self, url: str, timeout: float) -> None:
        self.url, self.timeout = url, timeout
        self.deadline = time.monotonic() + timeout
        self.count = self.failures = 0

    def options(self) -> tuple[float, dict[str, str]]:
        """Timeout and headers of the next try."""
        left = max(self.deadline - time.monotonic(), 0.001)
        return left, {TIMEOUT_HEADER: f"{left:.3f}"}

    def delay_after(self, answer: httpx.Response | httpx.TransportError) -> float | None:
        """Seconds until the next try; None if the answer is final.

        Raises:
            ServerError: there is no more time, the server failed too often, or it refused the request.
        """
        retry_after = None
        if isinstance(answer, httpx.Response):
            if answer.is_success:
                return None
            self.failures += answer.status_code in (500, 504)
            if answer.status_code not in RETRIED or self.failures >= FAILED_TRIES:
                raise _refusal(self.url, answer)
            retry_after = _seconds(answer.headers.get("Retry-After"))
        delay = min(FIRST_DELAY * 2**self.count, LONGEST_DELAY) * random.uniform(0.5, 1)
        self.count += 1
        delay = delay if retry_after is None else retry_after + delay / 4
        if time.monotonic() + delay >= self.deadline:
            if isinstance(answer, httpx.Response):
                raise _refusal(self.url, answer)
            what = str(answer) or type(answer).__name__
            raise ServerError(f"{self.url} did not answer within {self.timeout:g} s: {what}") from answer
        return delay


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else max(float(text), 0.0)
    except ValueError:  # a date, which none of our servers sends
        return None


def _refusal(url: str, answer: httpx.Response) -> ServerError:
    try:
        body = answer.json()
    except ValueError:
        body = {}
    body = body if isinstance(body, dict) else {}
    told = body.get("error") or answer.text[:200] or answer.reason_phrase
    if answer.has_redirect_location:
        told = f"the server is elsewhere, give its own address: {answer.headers['Location']}"
    return ServerError(f"{url} answered {answer.status_code}: {told}", answer.status_code, body.get("fields") or ())


def _content(answer: httpx.Response) -> Any:
    """The JSON of an answer.

    Raises:
        ServerError: it is none, as a proxy's page is.
    """
    try:
        return answer.json()
    except ValueError as error:
        message = f"{answer.url} answered without JSON: is this an EditReward server? {answer.text[:200]}"
        raise ServerError(message, answer.status_code) from error


class Client:
    """A server's scores and rewards. Threads may share one.

    Args:
        url: of the server.
        token: what `--token-file` holds there.
        timeout: seconds that a call may take, tries included.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout: float = 120.0) -> None:
        self._connection = _Connection(url, token, timeout)
        # Proxies of the environment are for the internet, a server of rewards is near.
        self._http = httpx.Client(headers=self._connection.headers, trust_env=False)

    def about(self) -> dict[str, Any]:
        """The server's scorer: name, fingerprint, dimensions, scale, notes, shaping; and the limits on requests."""
        found: dict[str, Any] = self._ask("GET", "/v1/scorer")
        return found

    def score(self, groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Scores of groups, as the server's page /docs describes them.

        Args:
            groups: `{"sources": [image, ...], "instruction": text, "edited": [image, ...]}`, images as for `encode`.

        Returns:
            For each group `candidates`, with `error` in those that failed, and more.

        Raises:
            ServerError: there was no answer in time, or the request was refused.
        """
        return self._score([_encoded(group) for group in groups])

    def rewards(
        self, *, sources: Sequence[object], edited: Sequence[object], instructions: Sequence[str]
    ) -> list[float]:
        """Rewards of edits, shaped as the server was told.

        Args:
            sources: for each edit its source, or a list of several.
            edited: the edits; images as for `encode`.
            instructions: for each edit what it was to do.

        Raises:
            NoReward: some failed.
            ServerError: as `score`.
        """
        groups, places = gathered(sources, edited, instructions)
        return rewards_of(self._score(groups), places)

    def _score(self, groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for part in portions(groups):
            found += self._ask("POST", "/v1/score", {"groups": part})["groups"]
        return found

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        tries = self._connection.tries(path)
        content = None if body is None else json.dumps(body).encode()
        while True:
            answer: httpx.Response | httpx.TransportError
            try:
                timeout, headers = tries.options()
                if content:
                    headers["Content-Type"] = "application/json"
                answer = self._http.request(method, tries.url, content=content, headers=headers, timeout=timeout)
            except httpx.TransportError as error:
                answer = error
            delay = tries.delay_after(answer)
            if delay is None:
                assert isinstance(answer, httpx.Response)
                return _content(answer)
            time.sleep(delay)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class AsyncClient:
    """As `Client`, for one event loop: many calls at once meet in the server's batches."""

    def __init__(self, url: str, *, token: str | None = None, timeout: float = 120.0) -> None:
        self._connection = _Connection(url, token, timeout)
        limits = httpx.Limits(max_connections=256, max_keepalive_connections=64)
        self._http = httpx.AsyncClient(headers=self._connection.headers, trust_env=False, limits=limits)

    async def about(self) -> dict[str, Any]:
        """As `Client.about`."""
        found: dict[str, Any] = await self._ask("GET", "/v1/scorer")
        return found

    async def score(self, groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """As `Client.score`. Images are encoded in threads, so that the event loop goes on."""
        encoded = await asyncio.gather(*(asyncio.to_thread(_encoded, group) for group in groups))
        return await self._score(encoded)

    async def rewards(
        self, *, sources: Sequence[object], edited: Sequence[object], instructions: Sequence[str]
    ) -> list[float]:
        """As `Client.rewards`."""
        groups, places = await asyncio.to_thread(gathered, sources, edited, instructions)
        return rewards_of(await self._score(groups), places)

    async def _score(self, groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        asked = (self._ask("POST", "/v1/score", {"groups": part}) for part in portions(groups))
        return [one for answer in await asyncio.gather(*asked) for one in answer["groups"]]

    async def _ask(self, method: str, path: str, body: object = None) -> Any:
        tries = self._connection.tries(path)
        content = None if body is None else json.dumps(body).encode()
        while True:
            answer: httpx.Response | httpx.TransportError
            try:
                timeout, headers = tries.options()
                if content:
                    headers["Content-Type"] = "application/json"
                answer = await self._http.request(method, tries.url, content=content, headers=headers, timeout=timeout)
            except httpx.TransportError as error:
                answer = error
            delay = tries.delay_after(answer)
            if delay is None:
                assert isinstance(answer, httpx.Response)
                return _content(answer)
            await asyncio.sleep(delay)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()


def _encoded(group: dict[str, Any]) -> dict[str, Any]:
    return group | {name: [text_of(image) for image in group[name]] for name in ("sources", "edited")}


# Reward functions for frameworks. `rewards` is that method of a `Client`, or of an `editreward.rewards.Reward`.


def flow_grpo_reward(
    rewards: Callable[..., list[float]],
) -> Callable[..., tuple[list[float], dict[str, object]]]:
    """The reward function of flow_grpo and DiffusionNFT: `fn(images, prompts, metadata, ref_images=None)`.

    It raises where an edit has no reward: a NaN would spoil its group, and a 0 would be learnt from.
    """

    def reward(
        images: Sequence[object],
        prompts: Sequence[str],
        metadata: object = None,
        ref_images: Sequence[object] | None = None,
    ) -> tuple[list[float], dict[str, object]]:
        if ref_images is None:
            raise ValueError(
                "An edit cannot be judged without its source. Pass `ref_images` on: in flow_grpo/rewards.py, "
                "`multi_score`, call `score_fns[score_name](images, prompts, metadata, ref_images=ref_images)`."
            )
        return rewards(sources=ref_images, edited=images, instructions=prompts), {}

    return reward


def edit_r1_reward(
    rewards: Callable[..., list[float]],
) -> Callable[..., tuple[list[float], dict[str, object]]]:
    """The reward function of Edit-R1: `fn(ref_images, images, prompts, metadatas)`, the sources first. It raises."""

    def reward(
        ref_images: Sequence[object], images: Sequence[object], prompts: Sequence[str], metadatas: object = None
    ) -> tuple[list[float], dict[str, object]]:
        return rewards(sources=ref_images, edited=images, instructions=prompts), {}

    return reward


def evaluate_images(
    input_images: Sequence[object],
    output_image: Sequence[object],
    meta_datas: Sequence[str | bytes | Mapping[str, Any]],
    proxy_host: str = "127.0.0.1",
    proxy_port: int = 8000,
    server_type: str = "vlm",
    *,
    client: Client | None = None,
) -> tuple[list[float], list[float], list[str], list[dict[str, Any]]]:
    """What OmniGen2-RL's function of this name does, without pickles and without zeros for failures.

    Args:
        input_images: for each edit a list of its sources.
        output_image: the edits.
        meta_datas: for each edit a dict with `instruction`, or its JSON.
        proxy_host, proxy_port: of our server; `EDITREWARD_TOKEN` of the environment is its token.
        server_type: is not looked at.
        client: in place of host and port.

    Returns:
        The scorer's own scores, the shaped rewards, reasons in words, and the metadata as dicts.

    Raises:
        NoReward: an edit failed.
        ServerError: there was no answer.
    """
    parsed = [json.loads(one) if isinstance(one, (str, bytes)) else dict(one) for one in meta_datas]
    groups, places = gathered(input_images, output_image, [one["instruction"] for one in parsed])
    own = client or Client(f"http://{proxy_host}:{proxy_port}", token=os.environ.get("EDITREWARD_TOKEN"), timeout=600)
    try:
        results = own._score(groups)
    finally:
        if client is None:
            own.close()
    rewards = rewards_of(results, places)
    found = {
        index: candidate
        for result, members in zip(results, places, strict=True)
        for index, candidate in zip(members, result["candidates"], strict=True)
    }
    ordered = [found[index] for index in range(len(rewards))]
    return (
        [float(one["reward"]) for one in ordered],
        rewards,
        [" ".join(one["reasons"]) for one in ordered],
        [one | {"original_index": index} for index, one in enumerate(parsed)],
    )
