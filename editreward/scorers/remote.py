"""A scorer that a server runs: `load_scorer("http://host:8000")`."""

import math
import os
from collections.abc import Sequence
from typing import Any

from editreward.client import Client, ServerError, portions, text_of
from editreward.groups import EditGroup, GroupScores, Unscored
from editreward.groups.group import ImageInput
from editreward.scorers.registry import ScorerOptions
from images_editreward import load_image

TOKEN_VARIABLE = "EDITREWARD_TOKEN"
"""The environment's variable with the server's token: command lines are shown to everybody on a machine."""


SECONDS_TO_ANSWER = 10.0
"""Within so many seconds a server must say what it is: a wrong address is told soon."""


class RemoteScorer:
    """Scores groups on an `editreward serve`.

    What it says of itself is the server's, and asked for once: where another scorer is served meanwhile, calls raise.

    Args:
        url: of the server.
        token: its token; by default that of the environment's `EDITREWARD_TOKEN`.
        timeout: seconds that a call may take, tries included.

    Raises:
        ServerError: there is no answer.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout: float = 600.0) -> None:
        token = token or os.environ.get(TOKEN_VARIABLE)
        self._client = Client(url, token=token, timeout=timeout)
        with Client(url, token=token, timeout=min(timeout, SECONDS_TO_ANSWER)) as first:
            about = first.about()
        self.name: str = about["name"]
        self.fingerprint: str = about["fingerprint"]
        self.dimensions: tuple[str, ...] = tuple(about["dimensions"])
        self.scale: tuple[float, float] | None = None if about["scale"] is None else tuple(about["scale"])
        self.calibrated: bool = about["calibrated"]
        self.notes: tuple[str, ...] = tuple(about["notes"])
        self._edits, self._bytes = int(about["limits"]["edits"]), int(about["limits"]["body_bytes"])

    def __call__(self, groups: Sequence[EditGroup]) -> list[GroupScores | Unscored]:
        """Score groups, as every `Scorer` does; rewards are the scorer's own, not the server's shaped ones.

        Raises:
            ServerError: there was no answer in time, or it was another scorer's.
        """
        found: list[GroupScores | Unscored | None] = [None] * len(groups)
        bodies: list[dict[str, Any]] = []
        for index, group in enumerate(groups):
            try:
                bodies.append({**_body(group), "group_id": str(index)})
            except (ValueError, OSError) as error:  # OSError: of an open PIL image that is truncated
                found[index] = Unscored(str(error))
        for part in portions(bodies, min(self._edits, 64), self._bytes * 3 // 4):  # beside images there are texts
            for answer in self._ask(part):
                found[int(answer["group_id"])] = _scores_of(answer)
        return [one if one is not None else Unscored("the server left it out") for one in found]

    def _ask(self, part: list[dict[str, Any]]) -> list[dict[str, Any]]:
        try:
            answer = self._client._ask("POST", "/v1/score", {"groups": part})
        except ServerError as error:
            if error.status != 422:
                raise
            return self._one_by_one(part, error)
        if answer["fingerprint"] != self.fingerprint:
            raise ServerError(f"The server now runs {answer['scorer']}, not {self.name}: load the scorer anew.")
        groups: list[dict[str, Any]] = answer["groups"]
        return groups

    def _one_by_one(self, part: list[dict[str, Any]], error: ServerError) -> list[dict[str, Any]]:
        """Answers to groups of which the server refused all: for each its own reason."""
        if len(part) > 1:
            return [answer for one in part for answer in self._ask([one])]
        reason = "; ".join(f"{fault['field']}: {fault['reason']}" for fault in error.fields) or str(error)
        return [{"group_id": part[0]["group_id"], "error": reason}]


def _body(group: EditGroup) -> dict[str, Any]:
    """A group as requests carry it. Edits that cannot be read are sent as nothing: the server says so of each."""
    sources = [text_of(_readable(image, "source")) for image in group.sources]
    edited = []
    for index, image in enumerate(group.edited):
        try:
            edited.append(text_of(_readable(image, f"edited[{index}]")))
        except (ValueError, OSError):
            edited.append("AAAA")
    return {"sources": sources, "instruction": group.instruction, "edited": edited}


def _readable(image: ImageInput, name: str) -> ImageInput:
    """What the client can encode: bytes of files and PIL images as they are, all else by the package's function."""
    return image if isinstance(image, bytes) or hasattr(image, "getexif") else load_image(image, name)


def _scores_of(answer: dict[str, Any]) -> GroupScores | Unscored:
    if answer["error"] is not None:
        return Unscored(answer["error"])
    best = [one["probability_best"] for one in answer["candidates"]]
    has_probabilities = any(one is not None for one in best)
    return GroupScores.from_state(
        {
            "candidates": [
                one if one["reward"] is not None else {"unscored": one["error"], "answers": one.get("answers", ())}
                for one in answer["candidates"]
            ],
            "preferences": answer["preferences"] and [list(map(_number, row)) for row in answer["preferences"]],
            "probabilities": list(map(_number, best)) if has_probabilities else None,
        }
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def load(name: str, argument: str | None, options: ScorerOptions) -> RemoteScorer:
    """Made by the registry.

    Raises:
        ValueError: the server does not answer.
    """
    try:
        return RemoteScorer(f"{name}:{argument}")
    except ServerError as error:
        raise ValueError(f"{error}. Is the server up, and {TOKEN_VARIABLE} its token?") from error
