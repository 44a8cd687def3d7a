"""What a judge can be told: the entries of its YAML file."""

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from editreward.validation import KNOWN_ENTRIES_ONLY, Text

OPENAI_URL = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
JUDGE_KEY = "EDITREWARD_JUDGE_API_KEY"
"""Environment variable with the key for any other endpoint, so that no endpoint gets a key that is not for it."""


def _check_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it must be an address such as http://localhost:8000/v1")
    if parts.username is not None or parts.password is not None or parts.query:
        raise ValueError(f"an address holds no key: put the key into the environment ({JUDGE_KEY})")
    return url.rstrip("/")


def _check_key_variable(name: str) -> str:
    if not re.fullmatch(r"[A-Z][A-Z0-9_]*API_KEY", name):
        raise ValueError(f"{name!r} is not the name of an environment variable that ends in API_KEY")
    return name


Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Price = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, config=KNOWN_ENTRIES_ONLY)
class JudgeOptions:
    """Whom a judge asks, and how.

    Args:
        model: name of the model at the endpoint.
        url: address of the endpoint, up to and with `/v1`.
        prompts: name or file of a prompt set; by default `editreward`, of pairs `editreward-pairs`.
        passes: how often each edit is asked about.
        temperature, top_p: of the sampling; null: the endpoint's own.
        seed: of pass i is `seed + i`; null: no seed is sent, for endpoints that refuse it.
        max_new_tokens: longest answer; by default what the prompt set says.
        extra: further entries of the request's body, such as `{top_k: 20}` for vLLM.
        concurrency: calls that are under way at once.
        deadline: seconds for an answer, waits and repeated calls included.
        max_pixels: larger images are downscaled to at most so many pixels; others stay as they are.
        image_format: how images are sent: "png" changes no pixel, "jpeg" (quality 95) is smaller.
        prices: of a million tokens that are read, and that are written.
        max_cost: no call is begun that might spend more than this, in the currency of `prices`.
        max_calls: calls after which no more are made. Repeated calls count; answers from the cache do not.
        cache: keep answers on disk, and take those that are there.
        log: file to which a line of JSON is added for every call: tokens, cost, seconds.
        accepts_models: names that the endpoint may give for the model, beside its own and dated versions of it.
        key_variable: environment variable with the key. By default OPENAI_API_KEY for OpenAI's own address, and
            EDITREWARD_JUDGE_API_KEY for any other, if it is set.
        both_orders: of a judge of pairs: ask in both orders and take the mean.
    """

    model: Text
    url: Annotated[Text, AfterValidator(_check_url)] = OPENAI_URL
    prompts: Text | None = None
    passes: Count = 1
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int | None = 42
    max_new_tokens: Count | None = None
    extra: dict[str, object] = Field(default_factory=dict)
    concurrency: Count = 8
    deadline: Positive = 120.0
    max_pixels: Count = 1024 * 1024
    image_format: Literal["png", "jpeg"] = "png"
    prices: tuple[Price, Price] | None = None
    max_cost: Positive | None = None
    max_calls: Count | None = None
    cache: bool = True
    log: Text | None = None
    accepts_models: tuple[Text, ...] = ()
    key_variable: Annotated[Text, AfterValidator(_check_key_variable)] | None = None
    both_orders: bool = False

    def __post_init__(self) -> None:
        if self.max_cost is not None and self.prices is None:
            raise ValueError("`max_cost` needs `prices` of a million tokens, read and written")
        if self.passes > 1 and self.temperature == 0:
            raise ValueError("at temperature 0 every pass gives the same answer: leave `passes` at 1")

    @property
    def is_openai(self) -> bool:
        """Whether it is OpenAI's own endpoint."""
        return urlsplit(self.url).hostname == urlsplit(OPENAI_URL).hostname

    @property
    def token_limit(self) -> str:
        """Name of the request's entry for the longest answer; OpenAI's newer models refuse the older name."""
        return "max_completion_tokens" if self.is_openai else "max_tokens"
