"""The generative scorer: a vision-language model writes an answer about each edit, and the answer holds the scores.

    scorer = GenerativeScorer.from_pretrained("Qwen/Qwen2.5-VL-7B-Instruct", adapter="org/EditScore-7B", passes=4)
    scores = scorer([EditGroup([source], "give the cat a red hat", [edit])])[0].scores[0]

`scorer([...])` gives `GroupScores`, as every scorer does. See docs/editscore.md.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from editreward import __version__
from editreward.groups import CandidateScore, DimensionScore, EditGroup, GroupScores, Unscored
from editreward.scorers.fingerprints import content_hash, fingerprint_of, saved_hash, versions, weights_hash
from editreward.scorers.generative.adapters import base_of, merged_folder
from editreward.scorers.generative.engine import Answer, Computed, Engine, Request
from editreward.scorers.generative.expected import LEAST_MASS, JointScore, NumberTree, expected_scores
from editreward.scorers.generative.images import ImagePatches, ImageReader, ImageRoute
from editreward.scorers.generative.loading import Writer, check_chat_template, load_writer
from editreward.scorers.generative.published import PublishedSampling
from editreward.scorers.generative.sampling import Sampling
from editreward.scorers.generative.tokens import PromptTokens
from editreward.scorers.loading import choose_device, choose_dtype
from editreward.scorers.passes import TRIES, AnswerCounts, Question, Reply, score_by_passes
from editreward.scorers.prompts import ParseFailure, PromptSet, load_prompt_set
from editreward.scorers.prompts.published import guesses
from processing_editreward import ImageError

Mode = Literal["sample", "greedy", "expected", "published"]

MODES = get_args(Mode)
DEFAULT_SAMPLING = Sampling()
NOTES = {
    "sample": "Scores are the mean of {passes} sampled answer(s). The spread of the passes is noise of decoding, not "
    "of people's judgement; there are no probabilities until `editreward calibrate` has fitted them.",
    "greedy": "Scores are those of the likeliest answer, word by word; there are no probabilities.",
    "expected": "Scores are expectations over the numbers that the model may write, and standard deviations are of "
    "that distribution: what the model is sure of, not people.",
    "published": "Answers are drawn and read as the published EditScore does it, guesses included.",
}


@dataclass
class _Edit:
    """A candidate that is ready for the model.

    Attributes:
        group, place: where it belongs.
        tokens: of each prompt, by name.
    """

    group: int
    place: int
    tokens: dict[str, PromptTokens]

    def __len__(self) -> int:
        return sum(map(len, self.tokens.values()))


@dataclass
class _Found:
    """What is known of a group so far."""

    candidates: list[CandidateScore | Unscored | None] = field(default_factory=list)
    failed: Unscored | None = None

    @property
    def scores(self) -> GroupScores | Unscored:
        if self.failed is not None:
            return self.failed
        return GroupScores(tuple(one for one in self.candidates if one is not None))


class GenerativeScorer:
    """Scores edits by what a vision-language model writes about them.

    Args:
        writer: the model, on the device where it is to run.
        prompts: what it is asked, and how its answers are read.
        name: what to call it in reports.
        passes: answers to each prompt, all sampled.
        sampling: how they are sampled.
        seed: of the first pass; pass i has `seed + i`. A candidate's answers depend on seed and content alone, not on
            what is scored with it.
        mode: `sample`; `greedy`: the likeliest token each time; `expected`: expectations over all numbers, for prompt
            sets that ask for scores alone; `published`: as the published EditScore, one answer after another.
        image_route: how images become pixels; by default as `mode` says.
        max_pixels: of an image, at most.
        max_new_tokens: of an answer; by default what the prompt set says.
        max_batch_tokens: tokens of prompts and answers that are held at once.

    Raises:
        ValueError: options contradict each other.
        ModelError: the model has no chat template, and the prompt set needs one.
    """

    calibrated = False

    def __init__(
        self,
        writer: Writer,
        prompts: PromptSet,
        name: str = "generative",
        *,
        passes: int = 1,
        sampling: Sampling = DEFAULT_SAMPLING,
        seed: int = 42,
        mode: Mode = "sample",
        image_route: ImageRoute | None = None,
        max_pixels: int | None = None,
        max_new_tokens: int | None = None,
        max_batch_tokens: int | None = None,
    ) -> None:
        _check(mode, passes, max_new_tokens, max_batch_tokens, prompts)
        check_chat_template(writer, name, prompts)
        if mode == "published":
            prompts = replace(prompts, parse_rule="published")
        self.writer, self.prompts, self.name = writer, prompts, name
        self.passes, self.seed, self.mode = passes, seed, mode
        self.sampling = Sampling(0.0, repetition_penalty=sampling.repetition_penalty) if mode == "greedy" else sampling
        self.max_new_tokens = max_new_tokens or prompts.max_new_tokens
        config = writer.model.config
        published: ImageRoute = "published_batch" if prompts.published == "batch_evaluate" else "published"
        route: ImageRoute = image_route or (published if mode == "published" else "upright")
        self.images = ImageReader(writer.image_processor, config.model_type, route, max_pixels)
        self.tokenizer = writer.prompt_tokenizer()
        self.trees = (
            {prompt.name: NumberTree(prompt, self.tokenizer) for prompt in prompts.prompts}
            if mode == "expected"
            else {}
        )
        self.engine = Engine(writer.model, writer.end_ids, max_batch_tokens)
        self.answer_counts = AnswerCounts()

    @classmethod
    def from_pretrained(
        cls,
        base: str | Path,
        adapter: str | Path | None = None,
        prompts: str | Path | PromptSet = "editreward",
        passes: int = 1,
        temperature: float = 0.7,
        top_p: float = 0.9,
        top_k: int = 20,
        seed: int = 42,
        mode: Mode = "sample",
        *,
        repetition_penalty: float = 1.0,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        image_route: ImageRoute | None = None,
        max_pixels: int | None = None,
        max_new_tokens: int | None = None,
        max_batch_tokens: int | None = None,
        cache: str | Path | None = None,
        **hub_options: Any,
    ) -> "GenerativeScorer":
        """Load a base, with or without an adapter.

        Args:
            base: folder or Hub id of a Qwen2.5-VL or Qwen3-VL model; or the folder of an adapter that names its base.
            adapter: folder or Hub id of a LoRA adapter for it. It is merged once, into `cache`.
            prompts: name or YAML file of a prompt set.
            passes, seed, mode, image_route, max_pixels, max_new_tokens, max_batch_tokens: see the class.
            temperature, top_p, top_k, repetition_penalty: see `Sampling`. What the base says of generation does not
                count.
            device: where to run. By default CUDA, else Apple's MPS, else the CPU.
            dtype: precision of the weights. By default bfloat16 on GPUs that have it, else float32.
            cache: where merged models are kept.
            hub_options: `revision` of the base, or of the adapter where there is one, and `token`.

        Raises:
            ModelError: base or adapter cannot be used; the message says why and what to do.
            ValueError: an option cannot be used, or there is no such prompt set.
        """
        prompt_set = prompts if isinstance(prompts, PromptSet) else load_prompt_set(prompts)
        sampling = Sampling(temperature, top_p, top_k, repetition_penalty)
        _check(mode, passes, max_new_tokens, max_batch_tokens, prompt_set)
        if adapter is None and (named := base_of(base)):
            base, adapter = named, base
        place = choose_device(device)
        precision = choose_dtype(dtype, place)
        name, folder = str(base), str(base)
        if adapter is not None:
            name += f" + {adapter}"
            where = None if cache is None else Path(cache)
            folder = str(merged_folder(base, adapter, where, precision, **hub_options))
            hub_options = {}
        path = Path(folder).expanduser()
        writer = load_writer(str(path) if path.is_dir() else folder, precision, **hub_options)
        writer.model.to(place)
        return cls(
            writer,
            prompt_set,
            name,
            passes=passes,
            sampling=sampling,
            seed=seed,
            mode=mode,
            image_route=image_route,
            max_pixels=max_pixels,
            max_new_tokens=max_new_tokens,
            max_batch_tokens=max_batch_tokens,
        )

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the dimensions, those of the prompt set."""
        return tuple(self.prompts.dimensions)

    @property
    def scale(self) -> tuple[float, float]:
        """Lowest and highest score, those of the prompt set."""
        return self.prompts.scale

    @property
    def notes(self) -> list[str]:
        """What a reader of the scores must know."""
        notes = [NOTES[self.mode].format(passes=self.passes)]
        if self.answer_counts.retried or self.answer_counts.lost or self.answer_counts.guessed:
            notes.append(f"Of what was scored so far: {self.answer_counts}.")
        return notes

    @cached_property
    def fingerprint(self) -> str:
        """All that the scores depend on: weights, tokenizer, images, prompts, sampling, code, precision, versions."""
        model, processor = self.writer.model, self.writer.image_processor
        code = [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
        return fingerprint_of(
            scorer="generative",
            weights=weights_hash(model),
            config=content_hash(json.dumps(model.config.get_text_config().to_dict(), sort_keys=True, default=str)),
            tokenizer=saved_hash(self.writer.tokenizer),
            images=[saved_hash(processor), self.images.route, self.images.smallest, self.images.largest],
            prompts=self.prompts.fingerprint,
            mode=self.mode,
            passes=1 if self.mode in ("greedy", "expected") else self.passes,
            sampling=asdict(self.sampling),
            seed=self.seed,
            max_new_tokens=self.max_new_tokens,
            code=content_hash(*code),
            dtype=str(model.dtype),
            device=model.device.type,
            versions={"editreward": __version__, **versions("torch", "transformers", "pillow")},
        )

    def __call__(self, groups: Sequence[EditGroup]) -> list[GroupScores | Unscored]:
        """Score groups, as every `Scorer` does. An edit whose answers cannot be read is `Unscored`, with an answer."""
        found = [_Found() for _ in groups]
        features: dict[str, Tensor] = {}
        for batch in self._batches(groups, found):
            images = {image.key for edit in batch for tokens in edit.tokens.values() for image in tokens.images}
            features = {key: feature for key, feature in features.items() if key in images}
            for edit, score in zip(batch, self._safely(batch, features), strict=True):
                found[edit.group].candidates[edit.place] = score
        return [one.scores for one in found]

    def _batches(self, groups: Sequence[EditGroup], found: Sequence[_Found]) -> Iterator[list[_Edit]]:
        """Edits within the token budget, in order, so that those of a group meet. What fails is noted in `found`."""
        batch: list[_Edit] = []
        tokens = 0
        for number, group in enumerate(groups):
            for edit in self._edits(number, group, found[number]):
                size = len(edit) + self.passes * len(edit.tokens) * self.max_new_tokens
                if batch and tokens + size > self.engine.max_batch_tokens:
                    yield batch
                    batch, tokens = [], 0
                batch.append(edit)
                tokens += size
        if batch:
            yield batch

    def _edits(self, number: int, group: EditGroup, found: _Found) -> Iterator[_Edit]:
        """The candidates of a group that can be scored."""
        if group.fault:
            found.failed = Unscored(group.fault)
            return
        try:
            sources = [self.images(image, f"source[{i}]") for i, image in enumerate(group.sources)]
        except (ImageError, ValueError, OSError) as error:
            found.failed = Unscored(str(error))
            return
        found.candidates = [None] * len(group.edited)
        for place, image in enumerate(group.edited):
            try:
                edited = self.images(image, f"edited[{place}]")
                yield _Edit(number, place, self._tokens(group.instruction, sources, edited))
            except (ImageError, ValueError, OSError) as error:
                found.candidates[place] = Unscored(str(error))

    def _tokens(
        self, instruction: str, sources: Sequence[ImagePatches], edited: ImagePatches
    ) -> dict[str, PromptTokens]:
        images = {"source": list(sources), "edited": [edited]}
        made = {
            prompt.name: self.tokenizer(self.prompts, prompt, instruction, images) for prompt in self.prompts.prompts
        }
        longest = self.writer.model.config.get_text_config().max_position_embeddings
        for name, tokens in made.items():
            if len(tokens) + self.max_new_tokens > longest:
                raise ValueError(
                    f"{name} has {len(tokens)} tokens, and with an answer of {self.max_new_tokens} more than the "
                    f"{longest} of the model: shorten the instruction, or lower `max_pixels`."
                )
        return made

    def _safely(self, edits: Sequence[_Edit], features: dict[str, Tensor]) -> list[CandidateScore | Unscored]:
        """Scores, of halves of the batch where memory runs out."""
        counts = replace(self.answer_counts)
        try:
            return self._scores(edits, features)
        except RuntimeError as error:  # out of memory, above all
            self.answer_counts = counts  # what was asked is asked again
            if len(edits) == 1:
                return [Unscored(str(error))]
        # Tried again after the handler, not in it: the exception keeps the memory of the failed batch.
        middle = len(edits) // 2
        return [*self._safely(edits[:middle], features), *self._safely(edits[middle:], features)]

    def _scores(self, edits: Sequence[_Edit], features: dict[str, Tensor]) -> list[CandidateScore | Unscored]:
        if self.mode == "expected":
            tokens = [edit.tokens for edit in edits]
            joint = expected_scores(self.engine, self.trees, self.prompts, tokens, features)
            return [self._of_joint(one) for one in joint]
        different = {tokens.keys: tokens for edit in edits for tokens in edit.tokens.values()}
        computed = dict(zip(different, self.engine.read(list(different.values()), features), strict=True))

        def ask(questions: Sequence[Question]) -> list[Reply]:
            keys = [edits[question.candidate].tokens[question.prompt.name].keys for question in questions]
            if self.mode == "published":
                return self._published([computed[key] for key in keys], questions)
            return self._replies(computed, keys, questions)

        return score_by_passes(
            self.prompts,
            len(edits),
            ask,
            passes=1 if self.mode == "greedy" else self.passes,
            seed=self.seed,
            counts=self.answer_counts,
            tries=1 if self.mode in ("greedy", "published") else TRIES,
        )

    def _replies(
        self,
        computed: dict[tuple[int | str, ...], Computed],
        keys: Sequence[tuple[int | str, ...]],
        questions: Sequence[Question],
    ) -> list[Reply]:
        """Answers to all questions, written together; equal questions are asked once."""
        places = {key: place for place, key in enumerate(computed)}
        seeds = [f"{question.seed} {_digest(key)}" for key, question in zip(keys, questions, strict=True)]
        wanted = [Request(places[key], seed) for key, seed in zip(keys, seeds, strict=True)]
        different = list(dict.fromkeys(wanted))
        prompts = {one: question.prompt for one, question in zip(wanted, questions, strict=True)}
        closing = [prompts[one].closing for one in different]
        strict = self.prompts.parse_rule == "strict"

        def is_over(number: int, ids: list[int]) -> bool:
            if not strict or not closing[number] or closing[number].strip()[-1:] not in self._text(ids[-1:]):
                return False
            text, prompt = self._text(ids), prompts[different[number]]
            if prompt.answer.form is not None and prompt.has_reasoning:  # in reasons the closing text ends nothing
                return not isinstance(self.prompts.parse(prompt, text), ParseFailure)
            return _is_whole(text, closing[number])

        answers = self.engine.write(list(computed.values()), different, self.sampling, self.max_new_tokens, is_over)
        written = dict(zip(different, map(self._reply, answers), strict=True))
        return [written[one] for one in wanted]

    def _published(self, computed: Sequence[Computed], questions: Sequence[Question]) -> list[Reply]:
        """Answers as the published code draws them, one by one; those of unreadable passes as it makes them up."""
        texts = []
        for prompt, question in zip(computed, questions, strict=True):
            sampling = PublishedSampling.seeded(self.sampling, question.seed)
            (answer,) = self.engine.write([prompt], [Request(0)], sampling, self.max_new_tokens)
            texts.append(self._text(answer.ids))
        if self.prompts.published != "evaluate":
            return list(map(Reply, texts))
        replies: list[Reply] = []
        count = len(self.prompts.prompts)
        for start in range(0, len(questions), count):  # the prompts of a pass follow one another
            asked, given = questions[start : start + count], texts[start : start + count]
            read = [self.prompts.parse(one.prompt, text) for one, text in zip(asked, given, strict=True)]
            if not any(isinstance(one, ParseFailure) and not one.error for one in read):
                replies += map(Reply, given)
                continue
            numbers = guesses(asked[0].seed, asked[0].prompt.sub_scores[0].high)
            self.answer_counts.guessed += count
            for question, text, number in zip(asked, given, numbers, strict=True):
                told = f"guess_if_cannot_parse | {text}"
                replies.append(Reply(question.prompt.answer_of([number] * len(question.prompt.sub_scores), told)))
        return replies

    def _reply(self, answer: Answer) -> Reply:
        if answer.is_whole:
            return Reply(self._text(answer.ids))
        problem = f"the answer was cut by the limit of {self.max_new_tokens} tokens; raise `max_new_tokens`"
        return Reply(self._text(answer.ids), problem)

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self.writer.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip()

    def _of_joint(self, joint: JointScore) -> CandidateScore | Unscored:
        if not all(map(math.isfinite, (joint.overall, *joint.mass.values()))):
            return Unscored("the model returned NaN or infinite probabilities; try `dtype='float32'`.")
        for name, mass in joint.mass.items():
            if not mass >= LEAST_MASS:
                return Unscored(
                    f"{name}: the model answers in the form of the prompt with a probability of {mass:.2g} only, so "
                    "its numbers say nothing: take a model trained for this prompt set, or `mode='sample'`."
                )
        dimensions = {name: DimensionScore(mean, std) for name, (mean, std) in joint.dimensions.items()}
        return CandidateScore(dimensions, joint.overall, joint.overall_std)


def _check(
    mode: str, passes: int, max_new_tokens: int | None, max_batch_tokens: int | None, prompts: PromptSet
) -> None:
    """Raise a `ValueError` for options that contradict each other."""
    if mode not in MODES:
        raise ValueError(f"`mode` is {mode!r}; choose one of: {', '.join(MODES)}.")
    for name, value in (
        ("passes", passes),
        ("max_new_tokens", max_new_tokens),
        ("max_batch_tokens", max_batch_tokens),
    ):
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be positive, got {value}.")
    if mode in ("greedy", "expected") and passes != 1:
        raise ValueError(f"`passes` is {passes}, but with `mode='{mode}'` all passes would be alike: leave it out.")
    if mode == "expected" and prompts.passes != "average_last":
        raise ValueError(
            f"`mode='expected'` has no passes, which {prompts.name!r} averages first: use `average_last`."
        )
    if mode == "published" and prompts.published is None:
        raise ValueError(f"`mode='published'`: the prompt set {prompts.name!r} follows no published code.")


def _digest(keys: Sequence[int | str]) -> str:
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()


def _is_whole(text: str, closing: str) -> bool:
    """Whether an answer has come to its end: a JSON object is closed, or the text that closes its form is there."""
    if closing != "}":
        return text.endswith(closing.strip())
    start = text.find("{")
    if start < 0:
        return False
    try:
        json.JSONDecoder(strict=False).raw_decode(text, start)
    except ValueError:
        return False
    return True
