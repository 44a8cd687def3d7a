"""A judge of single edits, as a scorer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from editreward.groups import CandidateScore, EditGroup, GroupScores, Unscored
from editreward.groups.group import ImageInput
from editreward.scorers.fingerprints import fingerprint_of, versions
from editreward.scorers.judges.endpoint import Endpoint, Request
from editreward.scorers.judges.images import data_url
from editreward.scorers.judges.ledger import Ledger
from editreward.scorers.judges.options import JudgeOptions
from editreward.scorers.judges.replies import ReplyStore
from editreward.scorers.passes import AnswerCounts, Question, Reply, score_by_passes
from editreward.scorers.prompts import ImagePart, PromptSet, RenderedMessage

QUESTIONS_PER_SLOT = 8
"""Questions that are made ready for each of the calls that are under way at once; their images are in memory."""

NOT_IN_FINGERPRINT = (
    *("concurrency", "deadline", "max_cost", "max_calls", "prices", "cache", "log", "key_variable", "accepts_models"),
    "prompts",
)
"""Options that change no answer; the prompt set has a fingerprint of its own."""


@dataclass(frozen=True)
class Shown:
    """What a judge is shown of one edit, or of a pair.

    Attributes:
        instruction: what was to be done.
        images: data URLs by slot.
    """

    instruction: str
    images: Mapping[str, Sequence[str]]

    def content(self, message: RenderedMessage) -> list[dict[str, object]]:
        """The parts of a message as the API takes them."""
        return [
            {"type": "image_url", "image_url": {"url": self.images[part.slot][part.index]}}
            if isinstance(part, ImagePart)
            else {"type": "text", "text": part.text}
            for part in message.parts
        ]


class Judge:
    """What judges of single edits and of pairs share.

    Args:
        options: whom to ask, and how.
        prompts: what to ask.

    Attributes:
        counts: what became of the questions so far.
        ledger: calls, tokens and cost so far.
    """

    kind = "judge"

    def __init__(self, options: JudgeOptions, prompts: PromptSet) -> None:
        self.options, self.prompts = options, prompts
        self.name = f"{self.kind} {options.model} ({prompts.name})"
        self.counts = AnswerCounts()
        self.longest = options.max_new_tokens or prompts.max_new_tokens
        self.ledger = Ledger(options)
        store = ReplyStore(fingerprint_of(url=options.url, prompts=prompts.fingerprint)) if options.cache else None
        self.endpoint = Endpoint(options, self.ledger, store)

    @property
    def fingerprint(self) -> str:
        """Of all that answers depend on, as far as it can be known: not of the weights behind the endpoint."""
        chosen = {name: value for name, value in asdict(self.options).items() if name not in NOT_IN_FINGERPRINT}
        return fingerprint_of(
            scorer=self.kind, options=chosen, prompts=self.prompts.fingerprint, versions=versions("pillow")
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What readers of its scores must know."""
        told = [f"Scores are what {self.options.model} at {self.options.url} wrote; they are no probabilities."]
        if self.counts.asked:
            told.append(f"So far {self.counts}; {self.ledger}.")
        return (*told, *(f"{fault[:1].upper()}{fault[1:]}." for fault in sorted(self.ledger.faults)))

    def request(self, question: Question, shown: Shown, about: str = "") -> dict[str, object]:
        """The body of a call."""
        source = shown.images.get("source", ())
        messages = question.prompt.render(shown.instruction, sources=len(source), question=about)
        body: dict[str, object] = {
            "model": self.options.model,
            "messages": [
                {
                    "role": message.role,
                    "content": message.text if message.role == "system" else shown.content(message),
                }
                for message in messages
            ],
            self.options.token_limit: self.longest,
        }
        optional = {"temperature": self.options.temperature, "top_p": self.options.top_p}
        optional["seed"] = None if self.options.seed is None else question.seed
        body |= {name: value for name, value in optional.items() if value is not None}
        return body | ({"extra_body": dict(self.options.extra)} if self.options.extra else {})

    def url(self, image: ImageInput, name: str) -> str:
        """An image as a data URL.

        Args:
            image: any image.
            name: what errors call it.

        Raises:
            ValueError: it cannot be decoded.
        """
        return data_url(image, self.options.max_pixels, self.options.image_format, name)

    def sources(self, images: Sequence[ImageInput]) -> list[str]:
        """The source images as data URLs; raises as `url` does."""
        return [self.url(image, f"source[{n}]" if len(images) > 1 else "source") for n, image in enumerate(images)]

    def ask(self, shown: Sequence[Shown], about: Sequence[str] = ()) -> Callable[[Sequence[Question]], list[Reply]]:
        """What answers questions about what is shown, see `score_by_passes`."""

        def ask(questions: Sequence[Question]) -> list[Reply]:
            def request(question: Question) -> Request:
                place = question.candidate
                draw = f"{question.number}.{question.retry}" if self.options.seed is None else ""
                return Request(lambda: self.request(question, shown[place], about[place] if about else ""), draw)

            return self.endpoint.ask([request(question) for question in questions])

        return ask


class JudgeScorer(Judge):
    """Scores edits by asking a model behind an endpoint about each; a `Scorer`.

    Args:
        options: whom to ask, and how.
        prompts: what to ask.

    Raises:
        ValueError: the prompt set is one of pairs, or there is no key.
    """

    calibrated = False

    def __init__(self, options: JudgeOptions, prompts: PromptSet) -> None:
        if prompts.is_of_pairs:
            raise ValueError(f"The prompt set {prompts.name!r} compares two edits: use `judge-pairs`.")
        super().__init__(options, prompts)
        self.dimensions = tuple(prompts.dimensions)
        self.scale: tuple[float, float] | None = prompts.scale

    def __call__(self, groups: Sequence[EditGroup]) -> list[GroupScores | Unscored]:
        """Score groups, as every `Scorer` does. What the budget does not reach is `Unscored`."""
        answers: list[GroupScores | Unscored] = []
        for some in self._portions(groups):
            answers += self._score(some)
        return answers

    def _portions(self, groups: Sequence[EditGroup]) -> Iterator[list[EditGroup]]:
        """Groups, a few at a time: enough to keep all calls busy."""
        enough = QUESTIONS_PER_SLOT * self.options.concurrency / (self.options.passes * len(self.prompts.prompts))
        some: list[EditGroup] = []
        for group in groups:
            some.append(group)
            if sum(len(one.edited) for one in some) >= enough:
                yield some
                some = []
        if some:
            yield some

    def _score(self, groups: Sequence[EditGroup]) -> list[GroupScores | Unscored]:
        shown: list[Shown] = []
        ready: list[Unscored | list[Unscored | int]] = [self._show(group, shown) for group in groups]
        scores = score_by_passes(
            self.prompts,
            len(shown),
            self.ask(shown),
            passes=self.options.passes,
            seed=self.options.seed or 0,
            counts=self.counts,
        )

        def score(place: Unscored | int) -> CandidateScore | Unscored:
            return scores[place] if isinstance(place, int) else place

        return [one if isinstance(one, Unscored) else GroupScores(tuple(map(score, one))) for one in ready]

    def _show(self, group: EditGroup, shown: list[Shown]) -> Unscored | list[Unscored | int]:
        """Add what is to be shown of each candidate; returns its place, or why there is nothing to show."""
        if group.fault:
            return Unscored(group.fault)
        try:
            sources = self.sources(group.sources)
        except ValueError as error:
            return Unscored(str(error))
        places: list[Unscored | int] = []
        for number, edited in enumerate(group.edited):
            try:
                images = {"source": sources, "edited": [self.url(edited, f"edited[{number}]")]}
            except ValueError as error:
                places.append(Unscored(str(error)))
                continue
            places.append(len(shown))
            shown.append(Shown(group.instruction, images))
        return places
