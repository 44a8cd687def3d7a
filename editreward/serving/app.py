"""The application: endpoints of our own and those that frameworks speak."""

import asyncio
import contextlib
import dataclasses
import json
import math
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import numpy as np
from fastapi import FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from editreward import __version__
from editreward.client import TIMEOUT_HEADER
from editreward.serving import schemas
from editreward.serving.errors import Fault, RequestError, refused
from editreward.serving.gate import Gate
from editreward.serving.service import AnsweredGroup, AskedGroup, Service

T = TypeVar("T")

ABOUT = """Rates edits of images: how well each follows the instruction and how good it looks.

An unusable image costs its own edit only, which gets an `error` in the place of scores; a request of which nothing is
left is a 422. 429 and 503 say in `Retry-After` when to come again. Asking again gives the same scores.
"""

ERRORS: dict[int | str, dict[str, object]] = {
    400: {"model": schemas.ErrorReply, "description": "The body cannot be read"},
    401: {"model": schemas.ErrorReply, "description": "The token is missing or wrong"},
    408: {"model": schemas.ErrorReply, "description": "The body did not arrive in time"},
    413: {"model": schemas.ErrorReply, "description": "Beyond a limit"},
    415: {"model": schemas.ErrorReply, "description": "The body is no JSON by its Content-Type"},
    422: {"model": schemas.ErrorReply, "description": "A field is wrong, or no image can be used"},
    429: {"model": schemas.ErrorReply, "description": "The queue is full"},
    500: {"model": schemas.ErrorReply, "description": "The scorer failed"},
    503: {"model": schemas.ErrorReply, "description": "The server is shutting down"},
    504: {"model": schemas.ErrorReply, "description": "The request's time was over"},
}

Seconds = Annotated[
    float | None,
    Header(
        alias=TIMEOUT_HEADER,
        gt=0,
        allow_inf_nan=False,
        description="How long the client waits. A request past that is dropped before it costs a pass.",
    ),
]


def create_app(service: Service) -> FastAPI:
    """The application around a service. It closes the service when it ends.

    Args:
        service: who scores.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="EditReward", version=__version__, description=ABOUT, lifespan=lifespan, redoc_url=None, responses=ERRORS
    )
    app.add_middleware(Gate, settings=service.settings, metrics=service.metrics, budget=service.budget)
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    _add_state(app, service)
    _add_scores(app, service)
    _add_flow_factory(app, service)
    _add_unirl(app, service)
    return app


# Endpoints


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/health", tags=["state"], response_model=schemas.HealthReply)
    async def health() -> Any:
        """Whether the server answers."""
        if not service.batcher.is_alive:
            raise RequestError(503, "The server is shutting down.", retry_after=1)
        return {"status": "ok", "rewards": {service.settings.reward_name: ["ready"]}}

    @app.get("/metrics", tags=["state"], response_class=Response)
    async def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/scorer", tags=["scores"], response_model=schemas.ScorerReply)
    async def scorer() -> Any:
        """What scores here, and the limits on requests."""
        one = service.scorer
        return {
            "name": one.name,
            "fingerprint": one.fingerprint,
            "version": service.version,
            "dimensions": list(one.dimensions),
            "scale": None if one.scale is None else list(one.scale),
            "calibrated": one.calibrated,
            "notes": list(one.notes),
            "shaping": service.shaping.to_dict(),
            "limits": dataclasses.asdict(service.settings.limits),
        }


def _add_scores(app: FastAPI, service: Service) -> None:
    async def reply(request: Request, groups: Sequence[AskedGroup], seconds: float | None) -> Response:
        answers = await _scored(request, service, groups, seconds)
        _refuse_if_nothing_is_left(answers)
        return _json(
            {
                "scorer": service.scorer.name,
                "fingerprint": service.scorer.fingerprint,
                "groups": [_group(group, answer) for group, answer in zip(groups, answers, strict=True)],
            }
        )

    @app.post("/v1/score", tags=["scores"], response_model=schemas.ScoreReply)
    async def score(request: Request, body: schemas.ScoreRequest, seconds: Seconds = None) -> Response:
        """Score groups of edits, images in base64."""
        return await reply(request, [_asked(group, f"groups.{i}") for i, group in enumerate(body.groups)], seconds)

    form = {
        "type": "object",
        "required": ["request"],
        "properties": {"request": {"type": "string"}},
        "additionalProperties": {"type": "string", "format": "binary"},
    }
    documented = {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}

    @app.post("/v1/score/files", tags=["scores"], response_model=schemas.ScoreReply, openapi_extra=documented)
    async def score_files(request: Request, seconds: Seconds = None) -> Response:
        """Score groups of edits, images as uploaded files.

        The form's field `request` is the JSON of `/v1/score` with names of the form's files in the place of images.
        """
        limits = service.settings.limits
        async with request.form(max_files=limits.edits * 2, max_part_size=limits.body_bytes) as sent:
            files = {name: await one.read() for name, one in sent.multi_items() if isinstance(one, UploadFile)}
            text = sent.get("request")
        if not isinstance(text, str):
            raise refused([{"field": "request", "reason": "the form needs this field, a text"}])
        try:
            body = schemas.ScoreRequest.model_validate_json(text)
        except ValidationError as error:
            raise refused([_fault(one, ["request"]) for one in error.errors()]) from error
        asked = [_asked(group, f"request.groups.{i}", files) for i, group in enumerate(body.groups)]
        return await reply(request, asked, seconds)


def _add_flow_factory(app: FastAPI, service: Service) -> None:
    @app.post("/compute", tags=["Flow-Factory"], response_model=schemas.ComputeReply)
    async def compute(request: Request, body: schemas.ComputeRequest, seconds: Seconds = None) -> Response:
        """Rewards of edits. Its list has no place for a failure: one fails the whole call."""
        if not len(body.prompt) == len(body.image) == len(body.condition_images):
            counts = f"{len(body.prompt)} prompts, {len(body.image)} images and {len(body.condition_images)} sources"
            raise refused([{"field": "condition_images", "reason": f"{counts}; there must be one of each per edit"}])
        rows = zip(body.condition_images, body.prompt, body.image, strict=True)
        asked = [
            AskedGroup(sources, prompt, [edit], [*_names(f"condition_images.{i}", sources), f"image.{i}"])
            for i, (sources, prompt, edit) in enumerate(rows)
        ]
        groups, places = merged(asked)
        answers = await _scored(request, service, groups, seconds)
        if faults := [fault for answer in answers for fault in answer.faults]:
            raise refused(faults)
        rewards: list[float | None] = [None] * len(asked)
        for answer, members in zip(answers, places, strict=True):
            for index, value, one in zip(members, answer.shaped, answer.scores.candidates, strict=True):
                if value is None:
                    raise RequestError(500, f"image.{index}: {getattr(one, 'reason', 'it has no reward')}")
                rewards[index] = value
        return _json({"rewards": rewards})


def _add_unirl(app: FastAPI, service: Service) -> None:
    name = service.settings.reward_name

    @app.get("/rewards", tags=["UniRL"], response_model=schemas.RewardsReply)
    async def rewards() -> Any:
        """The rewards that are served."""
        return {"rewards": [name]}

    @app.post("/score", tags=["UniRL"], response_model=schemas.HistoryScoreReply)
    async def history_score(request: Request, body: schemas.HistoryScoreRequest, seconds: Seconds = None) -> Response:
        """Rewards of edits. What failed is an entry of `errors`; NaN is nowhere."""
        results: list[dict[str, dict[str, float]]] = [{} for _ in body.requests]
        errors = [_not_served(one, name, service.version) for one in body.requests]
        asked, wanted = [], []
        for i, one in enumerate(body.requests):
            images = [turn.image_b64 for turn in one.history]
            names = [f"requests.{i}.history.{turn}.image_b64" for turn in range(len(images))]
            if not one.history[-1].text:
                raise refused([{"field": f"requests.{i}.history.{len(images) - 1}.text", "reason": "it is empty"}])
            if name in one.required_rewards and name not in errors[i]:
                asked.append(AskedGroup(images[:-1], one.history[-1].text, images[-1:], names))
                wanted.append(i)
        groups, places = merged(asked)
        answers = await _scored(request, service, groups, seconds)
        for answer, members in zip(answers, places, strict=True):
            for member, value, score in zip(members, answer.shaped, answer.scores.candidates, strict=True):
                if value is None:
                    errors[wanted[member]][name] = getattr(score, "reason", "it has no reward")
                else:
                    dimensions = getattr(score, "dimensions", {})
                    means = {key: dimensions[key].mean for key in dimensions}
                    results[wanted[member]][name] = {"reward": value} | means
        identity = {"request_id", "sample_id", "group_id", "source_rank", "policy_version", "idempotency_key"}
        identities = [
            one.model_dump(include=identity, exclude_none=True) | {"scorer_version": service.version}
            for one in body.requests
        ]
        return _json({"results": results, "errors": errors, "identities": identities, "protocol_version": "1"})


# Between the wire and the service


def _not_served(asked: schemas.HistoryRequest, name: str, version: str) -> dict[str, str]:
    """Why rewards that UniRL asks for are not made here: another one, or another version."""
    told = {other: f"not served here; there is {name}" for other in asked.required_rewards if other != name}
    if name in asked.required_rewards and asked.scorer_version not in (None, version):
        told[name] = f"scorer version {asked.scorer_version} was asked for; this is {version}"
    return told


def _names(field: str, images: Sequence[object]) -> list[str]:
    return [f"{field}.{index}" for index in range(len(images))]


def _asked(group: schemas.WireGroup, where: str, files: dict[str, bytes] | None = None) -> AskedGroup:
    names = [*_names(f"{where}.sources", group.sources), *_names(f"{where}.edited", group.edited)]
    sources: Sequence[str | bytes] = group.sources
    edited: Sequence[str | bytes] = group.edited
    if files is not None:
        given = dict(zip(names, [*group.sources, *group.edited], strict=True))
        missing = [name for name, file in given.items() if file not in files]
        if missing:
            raise refused([{"field": name, "reason": f"the form has no file {given[name]!r}"} for name in missing])
        sources, edited = ([files[name] for name in part] for part in (group.sources, group.edited))
    return AskedGroup(sources, group.instruction, edited, names, group.group_id)


def merged(asked: Sequence[AskedGroup]) -> tuple[list[AskedGroup], list[list[int]]]:
    """Single edits as groups: those of one source and one instruction are scored, and shaped, together.

    Returns:
        The groups, and the positions of their edits.
    """
    members: dict[tuple[object, ...], list[int]] = {}
    for index, one in enumerate(asked):
        members.setdefault((one.instruction, *one.sources), []).append(index)
    groups = []
    for places in members.values():
        first = asked[places[0]]
        edited = [asked[index].edited[0] for index in places]
        names = [*first.names[: len(first.sources)], *(asked[index].names[-1] for index in places)]
        groups.append(AskedGroup(first.sources, first.instruction, edited, names))
    return groups, list(members.values())


async def _scored(
    request: Request, service: Service, groups: Sequence[AskedGroup], seconds: float | None
) -> list[AnsweredGroup]:
    limit = service.settings.limits.request_seconds
    started = request.scope["editreward"]["started"]
    request.scope["editreward"] |= {"groups": len(groups), "edits": sum(len(one.edited) for one in groups)}
    return await _unless_gone(request, service.score(groups, started + min(seconds or limit, limit)))


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of some work, which is given up when the client is gone."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise RequestError(499, "The client is gone.")
        return task.result()
    finally:
        watch.cancel()
        task.cancel()


def _refuse_if_nothing_is_left(answers: Sequence[AnsweredGroup]) -> None:
    """An error where no edit has a score because of what was sent."""
    faults = [fault for answer in answers for fault in answer.faults]
    if faults and all(not answer.scores.scored and answer.faults for answer in answers):
        raise refused(faults)


def _group(group: AskedGroup, answer: AnsweredGroup) -> dict[str, object]:
    plain = answer.scores.to_dict()
    candidates = [{"shaped": value, **one} for value, one in zip(answer.shaped, plain["candidates"], strict=True)]
    return {
        "group_id": group.group_id,
        "error": answer.error,
        "best": plain["best"],
        "candidates": candidates,
        "preferences": answer.scores.preferences,
    }


def _json(content: object) -> Response:
    return Response(json.dumps(_without_nan(content), allow_nan=False), media_type="application/json")


def _without_nan(content: object) -> object:
    """Null in the place of NaN, which JSON has not, and plain numbers in that of numpy's."""
    if isinstance(content, np.generic):
        content = content.item()
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content


# Errors


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error.response()


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not kind.endswith(("/json", "+json")) and any(one["loc"] == ("body",) for one in error.errors()):
        reason = f"it is {kind or 'missing'}; send application/json"
        return refused([{"field": "Content-Type", "reason": reason}], 415).response()
    return refused([_fault(one) for one in error.errors()]).response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    made = RequestError(error.status_code, str(error.detail)).response()
    made.headers.update(error.headers or {})
    return made


def _fault(error: Mapping[str, Any], before: Sequence[str] = ()) -> Fault:
    """A fault of pydantic's, without the value, which may be an image."""
    is_json = error["type"] != "json_invalid"  # its place is a character's
    place = [*before, *(str(part) for part in error["loc"] if is_json and part != "body")]
    return {"field": ".".join(place or ["body"]), "reason": error["msg"]}
