"""An OpenAI-compatible endpoint: many calls at once, each with a deadline, repeated where that may help."""

import asyncio
import os
import random
import re
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import openai
from pydantic import SecretStr

from editreward.scorers.judges.ledger import Ledger, Usage
from editreward.scorers.judges.options import JUDGE_KEY, OPENAI_KEY, JudgeOptions
from editreward.scorers.judges.replies import ReplyStore
from editreward.scorers.passes import Reply

T = TypeVar("T")

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before a call is repeated: the first doubles with each repetition. A random part of up to a half is taken
off, so that callers which failed together do not come back together."""

REST = 60.0
"""Seconds for which nobody asks an endpoint that is down, refuses the key or has another model."""

NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout")
"""Errors before a call is sent, by name: of httpx or httpx2, as the client's release has it."""

NO_KEY = "none"
"""Sent where there is no key: servers of one's own ask for none, and the client wants one."""


@dataclass(frozen=True)
class Request:
    """A call to be made.

    Attributes:
        make: makes its body when its turn has come, so that few are in memory.
        draw: tells it from other calls with the same body, whose answers are other samples; empty where the body has
            a seed.
    """

    make: Callable[[], Mapping[str, object]]
    draw: str = ""


@dataclass(frozen=True)
class Failure:
    """A call that may succeed when it is repeated.

    Attributes:
        problem: what went wrong.
        wait: seconds that the endpoint asks to wait; None if it does not say.
        is_down: whether nothing answers there.
    """

    problem: str
    wait: float | None = None
    is_down: bool = False


class Endpoint:
    """Asks one model at one address.

    Args:
        options: whom to ask, and how.
        ledger: counts, and keeps the budget.
        store: answers that are known; None: none are.

    Raises:
        ValueError: OpenAI's own endpoint needs a key, and there is none.
    """

    def __init__(self, options: JudgeOptions, ledger: Ledger, store: ReplyStore | None) -> None:
        self.options, self.ledger, self.store = options, ledger, store
        self._key = _key_for(options)
        self._closed: tuple[float, str] = (0.0, "")
        self._last_reply = -1.0

    def ask(self, requests: Sequence[Request]) -> list[Reply]:
        """Answers to requests, in their order."""
        return _run(self._ask(requests))

    async def _ask(self, requests: Sequence[Request]) -> list[Reply]:
        gate = asyncio.Semaphore(self.options.concurrency)
        async with openai.AsyncOpenAI(
            base_url=self.options.url,
            api_key=self._key.get_secret_value(),
            max_retries=0,
            timeout=self.options.deadline,
        ) as client:

            async def one(request: Request) -> Reply:
                async with gate:
                    return await self._answer(client, request.make(), request.draw)

            return await asyncio.gather(*map(one, requests))

    async def _answer(self, client: openai.AsyncOpenAI, request: Mapping[str, object], draw: str) -> Reply:
        key = self.store.key(request, draw) if self.store else ""
        known = self.store.get(key) if self.store else None
        if known is not None:
            self.ledger.took_from_cache()
            return Reply(known)
        until, reason = self._closed
        if time.monotonic() < until:
            return Reply("", reason, final=True)
        began, failures = time.monotonic(), list[Failure]()
        try:
            async with asyncio.timeout(self.options.deadline):
                reply = await self._call(client, request, failures)
        except TimeoutError:
            reply = None
        if reply is None:
            return self._given_up(failures, began)
        if self.store and not reply.problem:
            try:
                self.store.put(key, reply.text)
            except OSError as error:  # the answer is paid for, and good
                self.ledger.faults.add(f"answers could not be kept in {self.store.folder} ({error.strerror})")
        return reply

    async def _call(
        self, client: openai.AsyncOpenAI, request: Mapping[str, object], failures: list[Failure]
    ) -> Reply | None:
        """Call until there is a reply, or calling again would not help; None if there is no time left to wait."""
        began = time.monotonic()
        while True:
            expected = expected_tokens(request, self.options)
            if reason := self.ledger.begin(expected):
                return Reply("", reason, final=True)
            found = await self._attempt(client, request, expected)
            if isinstance(found, Reply):
                return found
            wait = found.wait if found.wait is not None else _wait(len(failures))
            failures.append(found)
            if wait >= began + self.options.deadline - time.monotonic():
                return None
            await asyncio.sleep(wait)

    def _given_up(self, failures: Sequence[Failure], began: float) -> Reply:
        """What to say when time is up. An endpoint from which nothing came meanwhile is left alone."""
        limit = f"deadline of {self.options.deadline:g} s"
        if not failures:
            return Reply("", f"no reply within the {limit}", final=True)
        last = failures[-1]
        asked = f", which asks to wait {last.wait:.0f} s" if last.wait is not None else ""
        problem = f"{last.problem}{asked} ({len(failures)} calls failed within the {limit})"
        if last.is_down and self._last_reply < began:
            return self._close(problem)
        return Reply("", problem, final=True)

    async def _attempt(
        self, client: openai.AsyncOpenAI, request: Mapping[str, object], expected: Usage
    ) -> Reply | Failure:
        """One call. One without an answer may be billed all the same, unless it was refused or never arrived."""
        start, outcome, usage, replied = time.monotonic(), "stopped", None, False
        billed: Usage | None = expected
        try:
            response = await client.chat.completions.create(**request)
            replied, usage = True, usage_of(response)
            reply = self._read(response, str(request["model"]))
            outcome = reply.problem or "ok"
            self._last_reply = time.monotonic()
            return reply
        except openai.APIStatusError as error:
            outcome, billed = f"HTTP {error.status_code}", None
            return self._of_status(error)
        except openai.APIConnectionError as error:
            outcome = "no connection"
            told = type(error.__cause__ or error).__name__
            billed = None if told in NEVER_SENT else expected
            return Failure(self._told(f"{self.options.url} cannot be reached ({told}): is it running?"), is_down=True)
        except (openai.OpenAIError, ValueError) as error:
            outcome = "no chat completion"
            return Failure(self._told(f"the endpoint's reply is no chat completion ({type(error).__name__})"))
        finally:
            self.ledger.end(outcome, time.monotonic() - start, usage, replied, billed)

    def _of_status(self, error: openai.APIStatusError) -> Reply | Failure:
        status, code = error.status_code, str(error.code or "")
        told = self._told(f"HTTP {status}: {_short(_message(error))}")
        if "content_filter" in code or "content_policy" in code:
            return Reply("", f"refused by the endpoint's content filter ({told})", final=True)
        if status == 429 and code == "insufficient_quota":
            return self._close(f"the account's quota is spent ({told})")
        if status in (408, 409, 425, 429) or status >= 500:
            return Failure(told, retry_after(error.response.headers), is_down=status >= 500)
        if status in (401, 403):
            name = key_variable(self.options)
            return self._close(f"{self.options.url} refuses the key of {name} ({told}): set {name} to a valid one")
        if status == 404:
            return self._close(
                f"{self.options.url} has no model {self.options.model!r} ({told}): check name and address"
            )
        return Reply("", f"the endpoint refuses the request ({told})", final=True)

    def _read(self, response: object, model: str) -> Reply:
        """What a response says; it may be anything."""
        choices = getattr(response, "choices", None)
        choice = choices[0] if isinstance(choices, list) and choices else None
        message = getattr(choice, "message", None)
        if message is None:
            return Reply("", "the endpoint's reply is no chat completion: is the address right, with /v1?")
        if not self._is_asked(named := getattr(response, "model", None), model):
            return self._close(
                f"the endpoint answered with the model {_short(self._told(str(named)))}, not {model!r}: ask for that "
                "one, or list it in `accepts_models`"
            )
        text = self._told(_text_of(getattr(message, "content", None)))
        reason = getattr(choice, "finish_reason", None)
        if refusal := getattr(message, "refusal", None):
            return Reply(text, f"refused: {_short(self._told(str(refusal)))}", final=True)
        if reason == "content_filter":
            return Reply(text, "refused by the endpoint's content filter", final=True)
        if reason == "length":
            return Reply(text, "cut off by the token limit: raise `max_new_tokens`")
        return Reply(text) if text.strip() else Reply("", "the reply is empty")

    def _is_asked(self, named: object, model: str) -> bool:
        """Whether the endpoint's name of its model is the one asked for, a dated version of it, or one accepted."""
        if not named or named in (model, *self.options.accepts_models):
            return True
        dated = re.fullmatch(r"-\d[\d-]*", str(named).removeprefix(model)) and str(named).startswith(model)
        return bool(dated) or model.rpartition("/")[2] == str(named).rpartition("/")[2]

    def _close(self, reason: str) -> Reply:
        """Ask nothing for a while."""
        self._closed = (time.monotonic() + REST, reason)
        return Reply("", reason, final=True)

    def _told(self, text: str) -> str:
        """A text of the endpoint without the key, which some repeat."""
        key = self._key.get_secret_value()
        return text.replace(key, "***") if key != NO_KEY else text


def key_variable(options: JudgeOptions) -> str:
    """Name of the environment variable with the key."""
    return options.key_variable or (OPENAI_KEY if options.is_openai else JUDGE_KEY)


def _key_for(options: JudgeOptions) -> SecretStr:
    name = key_variable(options)
    key = os.environ.get(name, "").strip()
    if not key and (options.is_openai or options.key_variable):
        raise ValueError(f"The judge {options.model!r} needs a key for {options.url}: set the variable {name}.")
    return SecretStr(key or NO_KEY)


def expected_tokens(request: Mapping[str, Any], options: JudgeOptions) -> Usage:
    """What a call may use, rather too much: two characters a token, and patches of 28 x 28 pixels."""
    parts = [part for message in request["messages"] for part in message["content"] if isinstance(part, dict)]
    images = sum("image_url" in part for part in parts)
    characters = sum(len(part.get("text", "")) for part in parts)
    return Usage(characters // 2 + images * (options.max_pixels // 28**2 + 1), request[options.token_limit])


def usage_of(response: object) -> Usage | None:
    """Tokens of a response; None where it does not say them, or says what cannot be."""
    usage = getattr(response, "usage", None)
    read, written = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
    if not isinstance(read, int) or not isinstance(written, int) or min(read, written) < 0:
        return None
    return Usage(read, written)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an endpoint asks to wait, by number or date; None if it does not, or makes no sense."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):
            return None
    return max(0.0, seconds) * random.uniform(1, 1.1) if seconds == seconds and seconds != float("inf") else None


def _wait(repeated: int) -> float:
    return min(LONGEST_WAIT, FIRST_WAIT * 2**repeated) * random.uniform(0.5, 1)


def _text_of(content: object) -> str:
    """Text of a message, which some endpoints send in parts."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else getattr(part, "text", None) for part in content]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _message(error: openai.APIStatusError) -> str:
    body = error.body
    told = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(told or error.message).split())


def _short(text: str, longest: int = 200) -> str:
    return text if len(text) <= longest else f"{text[:longest]}…"


def _run(work: Coroutine[object, object, T]) -> T:
    """Run asynchronous work to its end, also where a loop runs already, such as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(asyncio.run(work))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]
