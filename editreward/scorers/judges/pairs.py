"""A judge of pairs, which sees two edits at once."""

from collections.abc import Sequence

from editreward.groups import EditPair, Unscored
from editreward.scorers.judges.options import JudgeOptions
from editreward.scorers.judges.scorer import Judge, Shown
from editreward.scorers.passes import TRIES, Question, Reply
from editreward.scorers.prompts import ParseFailure, Prompt, PromptSet

MARGINS = {0: 0.0, 1: 1.0, 2: -1.0}
"""By the number of the better edit, 0 for neither: by how much the first is better."""


class PairJudge(Judge):
    """Says which of two edits is better, or neither; a `PairwiseJudge`.

    Args:
        options: whom to ask, and how.
        prompts: a set of pairs: a prompt that allows ties, and one that does not, each with one number.

    Raises:
        ValueError: the prompt set is not one of pairs, or there is no key.
    """

    kind = "judge-pairs"

    def __init__(self, options: JudgeOptions, prompts: PromptSet) -> None:
        numbers = {(score.low, score.high) for prompt in prompts.prompts for score in prompt.sub_scores}
        if not prompts.is_of_pairs or numbers - {(0, 2), (1, 2)}:
            raise ValueError(
                f"The prompt set {prompts.name!r} is none of pairs: its messages need {{first}} and {{second}}, and "
                "its answers one number of 0..2 where ties are allowed, or of 1..2."
            )
        super().__init__(options, prompts)

    def compare(self, pairs: Sequence[EditPair]) -> list[float | Unscored]:
        """For each pair by how much the first is better: 1, -1, or 0 for a tie; of both orders the mean."""
        both = (False, True) if self.options.both_orders else (False,)
        orders = [(pair, turned) for pair in pairs for turned in both]
        found = self._compare(orders)
        if not self.options.both_orders:
            return found
        return [_mean(first, second) for first, second in zip(found[::2], found[1::2], strict=True)]

    def _compare(self, orders: Sequence[tuple[EditPair, bool]]) -> list[float | Unscored]:
        margins: list[float | Unscored] = [Unscored("not asked")] * len(orders)
        shown: list[Shown] = []
        questions: list[Question] = []
        places: list[int] = []
        for place, (pair, turned) in enumerate(orders):
            try:
                shown.append(self._show(pair, turned))
            except ValueError as error:
                margins[place] = Unscored(str(error))
                continue
            places.append(place)
            questions.append(Question(len(shown) - 1, self._prompt(pair.ties), 0, self.options.seed or 0))
        about = [self.prompts.question(orders[place][0].dimension) for place in places]
        answers = self._answers(questions, shown, about)
        for place, answer in zip(places, answers, strict=True):
            turned = orders[place][1]
            margins[place] = answer if isinstance(answer, Unscored) else (-answer if turned else answer)
        return margins

    def _answers(
        self, questions: Sequence[Question], shown: Sequence[Shown], about: Sequence[str]
    ) -> list[float | Unscored]:
        """Margins in the order shown; what cannot be read is asked again."""
        found: dict[int, float | Unscored] = {}
        ask = self.ask(shown, about)
        self.counts.asked += len(questions)
        left = list(questions)
        for retry in range(TRIES):
            again: list[Question] = []
            for question, reply in zip(left, ask(left), strict=True):
                margin = self._margin(question.prompt, reply)
                if not isinstance(margin, str):
                    found[question.candidate] = margin
                elif reply.final or retry + 1 == TRIES:
                    self.counts.lost += 1
                    found[question.candidate] = Unscored(margin, (reply.text,) if reply.text else ())
                else:
                    self.counts.retried += retry == 0
                    again.append(Question(question.candidate, question.prompt, 0, question.seed + 1, retry + 1))
            left = again
            if not left:
                break
        return [found[question.candidate] for question in questions]

    def _margin(self, prompt: Prompt, reply: Reply) -> float | str:
        """The margin, or why there is none."""
        if reply.problem:
            return reply.problem
        parsed = self.prompts.parse(prompt, reply.text)
        if isinstance(parsed, ParseFailure):
            return parsed.reason
        (number,) = parsed.numbers
        return MARGINS[int(number)] if number in MARGINS else f"{prompt.sub_scores[0].name} is {number:g}"

    def _prompt(self, ties: bool) -> Prompt:
        lowest = 0 if ties else 1
        fitting = [prompt for prompt in self.prompts.prompts if prompt.sub_scores[0].low == lowest]
        if not fitting:
            kind = "allows ties" if ties else "does without ties"
            raise ValueError(f"The prompt set {self.prompts.name!r} has no prompt that {kind}.")
        return fitting[0]

    def _show(self, pair: EditPair, turned: bool) -> Shown:
        edits = [self.url(pair.first, "first"), self.url(pair.second, "second")]
        first, second = reversed(edits) if turned else edits
        return Shown(pair.instruction, {"source": self.sources(pair.sources), "first": [first], "second": [second]})


def _mean(first: float | Unscored, second: float | Unscored) -> float | Unscored:
    if isinstance(first, Unscored):
        return first
    return second if isinstance(second, Unscored) else (first + second) / 2
