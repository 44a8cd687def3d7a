"""Bodies of requests and replies, with examples, as the OpenAPI page shows them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

# A red square of 8 x 8 pixels.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFUlEQVR42mM8" + "ISfHgA0wMeAAg1MCANDKARQfGKMRAAAAAElFTkSuQmCC"
ImageText = Annotated[
    str,
    Field(
        description="An image file in base64, also as a data URI; or its address, where the server allows it.",
        examples=[PNG],
        min_length=1,
    ),
]


class Strict(BaseModel):
    """A field that is not known is an error: it may be a misspelled one."""

    model_config = ConfigDict(extra="forbid", strict=True)


class WireGroup(Strict):
    """A source, an instruction, and the edits to score."""

    sources: list[ImageText] = Field(min_length=1, description="The image before the edit, or several.")
    instruction: str = Field(min_length=1, examples=["give the cat a red hat"])
    edited: list[ImageText] = Field(min_length=1, description="The edits.")
    group_id: str = Field("", max_length=200, description="Comes back with the scores.")


class ScoreRequest(Strict):
    """Groups of edits."""

    groups: list[WireGroup] = Field(min_length=1)


class WireScore(BaseModel):
    """A dimension's score."""

    mean: float
    std: float | None = Field(description="Standard deviation, where the scorer has one.")
    calibrated: bool = Field(description="Whether the mean is on the scale of people's ratings.")
    std_calibrated: bool = Field(description="Whether the standard deviation was measured against people's ratings.")


class WireCandidate(BaseModel):
    """Scores of one edit, or why there are none."""

    shaped: float | None = Field(description="The reward, shaped as the server was told; null for what failed.")
    reward: float | None = Field(description="What ranks the edits of a group; null for what failed.")
    reward_std: float | None
    overall: WireScore | None = Field(description="The reward on the scale of people's ratings, where there is one.")
    rank: int | None = Field(description="1 is the best of the group.")
    probability_best: float | None
    dimensions: dict[str, WireScore] | None
    reasons: list[str] = Field(description="Why, in words, where the scorer says so.")
    error: str | None = Field(description="Why there are no scores.")
    answers: list[str] = Field([], description="Raw answers, of a scorer that writes.")
    pass_std: float | None = Field(None, description="Standard deviation between the passes of such a scorer.")
    passes: list[dict[str, object]] = Field([], description="What each pass said.")


class WireGroupScores(BaseModel):
    """Scores of a group."""

    group_id: str
    error: str | None = Field(description="Why the whole group failed.")
    best: int | None = Field(description="Position of the best edit.")
    candidates: list[WireCandidate]
    preferences: list[list[float | None]] | None = Field(
        description="At [i][j] the probability that edit i is preferred to j, where the scorer gives probabilities."
    )


class ScoreReply(BaseModel):
    """Scores of all groups, in their order."""

    scorer: str
    fingerprint: str = Field(description="Differs whenever the scores may differ.")
    groups: list[WireGroupScores]


class WireFault(BaseModel):
    """What is wrong with a field."""

    field: str = Field(examples=["groups.0.edited.1"])
    reason: str


class ErrorReply(BaseModel):
    """Why there are no scores."""

    error: str
    fields: list[WireFault] = []


class ScorerReply(BaseModel):
    """What the server runs."""

    name: str
    fingerprint: str
    version: str = Field(description="Differs whenever the rewards may differ: it covers scorer and shaping.")
    dimensions: list[str]
    scale: list[float] | None
    calibrated: bool
    notes: list[str]
    shaping: dict[str, object]
    limits: dict[str, int | float]


class HealthReply(BaseModel):
    """Whether the server answers, as Flow-Factory and UniRL ask."""

    status: str
    rewards: dict[str, list[str]]


class RewardsReply(BaseModel):
    """Names of rewards, as UniRL asks."""

    rewards: list[str]


class ComputeRequest(Strict):
    """Flow-Factory's request: lists with an entry per edit."""

    prompt: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1, description="The instructions.")
    image: list[ImageText] = Field(min_length=1, description="The edits.")
    condition_images: list[Annotated[list[ImageText], Field(min_length=1)]] = Field(
        min_length=1, description="For each edit its source images."
    )
    video: None = None
    audio: None = None
    condition_videos: None = None
    kwargs: dict[str, object] | None = Field(None, description="What the framework has more; it is not looked at.")


class ComputeReply(BaseModel):
    """Flow-Factory's answer."""

    rewards: list[float]


class HistoryTurn(Strict):
    """A text and an image."""

    text: str
    image_b64: ImageText
    image_ipc: None = None
    video_b64: None = None
    video_path: None = None


class HistoryRequest(Strict):
    """An edit as UniRL sends it: source and edited image as turns, each with the instruction."""

    history: list[HistoryTurn] = Field(min_length=2, description="The sources, then the edit.")
    required_rewards: list[str] = Field(min_length=1, examples=[["editreward"]])
    metadata: object = None
    request_id: str | None = None
    sample_id: str | int | None = None
    group_id: str | int | None = None
    source_rank: int | None = None
    policy_version: str | int | None = None
    scorer_version: str | None = Field(None, description="Ask for this version: another one scores nothing.")
    idempotency_key: str | None = None


class HistoryScoreRequest(Strict):
    """UniRL's request."""

    requests: list[HistoryRequest] = Field(min_length=1)
    protocol_version: Literal["1"] | None = None
    grad_mode: Literal[False] = False
    call_id: str | None = None


class HistoryScoreReply(BaseModel):
    """UniRL's answer, with an entry per request in each list; a failed reward is in `errors` alone."""

    results: list[dict[str, dict[str, float]]]
    errors: list[dict[str, str]]
    identities: list[dict[str, object]] = Field(
        description="What each request called itself, and as `scorer_version` the version that is served."
    )
    protocol_version: Literal["1"]
