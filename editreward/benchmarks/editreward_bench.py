"""EditReward-Bench (TIGER-Lab): tuples of 2, 3 or 4 edits with a ranking, in both published forms.

The dataset has a row per comparison: `id`, `dataset` ("2pair", "3pair", "4pair"), `instruction`, `source_image`,
`candidate_1`, `candidate_2`, `comparison_type` ("AvsB", "AvsC", ...), `ranking` ("A>B", "B>A", "A=B", "A=B=Good",
"A=B=Bad"), `score_1`, `score_2`, `model_1`, `model_2`, and in some releases `overall_score_1`,
`instruction_following_1`, `visual_quality_1` and so on: means of three annotators, which become the candidates'
scores. Rows of one tuple share the part of `id` before the first "_". The JSON form has a row per tuple: `prompt`,
`path_src`, `paths_generated`, `human_vote` with a `ranking` such as "A>B>C".

The first release has ids that occur twice, in part with different verdicts. Rows that agree on the images of the
letters belong to one version of a tuple. A version with every comparison once becomes a group; the same version with
different verdicts is left out.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from editreward.benchmarks.benchmark import Benchmark
from editreward.benchmarks.protocols import tuples
from editreward.benchmarks.published import PAPER, Published
from editreward.data.benchmark_items import BenchmarkItem, Comparison, Verdict
from editreward.data.importers.faults import RowFault
from editreward.data.importers.formats import (
    UNKNOWN,
    Assembly,
    Built,
    Format,
    Row,
    preferences_of,
    short_hash,
    split_seed,
)
from editreward.data.schema import SCORE_RANGE

ABOUT = "tuples of 2, 3 and 4 (TIGER-Lab)"

LETTERS = "ABCD"
SUBSETS = {"2pair": 2, "3pair": 3, "4pair": 4}
TIE_QUALITIES = ("Good", "Bad")
SIDES = (1, 2)


@dataclass
class TupleRow:
    """A row of the dataset as data."""

    size: int
    instruction: str
    source: str
    letters: tuple[str, str]
    images: tuple[str, str]
    verdict: Verdict
    ranking: str
    models: tuple[str, str]
    scores: tuple[dict[str, float], dict[str, float]]
    published: dict[str, Any]


@dataclass
class Version:
    """Rows of one tuple that agree on the images."""

    instruction: str
    source: str
    size: int
    images: dict[str, str] = field(default_factory=dict)
    rows: dict[tuple[str, str], list[tuple[Row, TupleRow]]] = field(default_factory=dict)

    def fits(self, row: TupleRow) -> bool:
        """Whether the row says nothing else about the images than those before."""
        return (row.instruction, row.source, row.size) == (self.instruction, self.source, self.size) and all(
            self.images.get(letter, image) == image for letter, image in zip(row.letters, row.images, strict=True)
        )


def parse_ranking(text: str) -> list[list[str]]:
    """Letters from best to worst, equal ones together: "B>A=C" is [["B"], ["A", "C"]]. "A=B=Good" is [["A", "B"]].

    Raises:
        RowFault: the text is no ranking.
    """
    plain = re.sub(r"\s+", "", text)
    for quality in TIE_QUALITIES:
        plain = plain.removesuffix(f"={quality}")
    tiers = plain.split("<")[::-1] if "<" in plain else plain.split(">")
    ranking = [tier.split("=") for tier in tiers]
    letters = sorted(letter for tier in ranking for letter in tier)
    if ("<" in plain and ">" in plain) or len(letters) < 2 or letters != sorted(set(letters) & set(LETTERS)):
        raise RowFault("ranking", f"{text!r} is no ranking of images named by letters")
    return ranking


def verdict_of(ranking: list[list[str]], first: str, second: str) -> Verdict:
    """What a ranking says about two letters."""
    rank = {letter: number for number, tier in enumerate(ranking) for letter in tier}
    return "tie" if rank[first] == rank[second] else "first" if rank[first] < rank[second] else "second"


def key(row: Row) -> list[Any]:
    """The tuple's id in the dataset form; source, instruction and images in the JSON form."""
    if "paths_generated" in row.values:
        return [row.image("path_src"), row.text("prompt"), row.images("paths_generated")]
    return [row.choice("dataset", list(SUBSETS)), row.text("id").split("_")[0]]


def assemble(rows: list[Row], assembly: Assembly) -> list[Built]:
    """The groups of the tuples with one key: one, or several where the published ids collide."""
    if "paths_generated" in rows[0].values:
        return _assemble_json(rows, assembly)
    versions: list[Version] = []
    for row, said in assembly.parsed(rows, lambda row: _parse(row, assembly.dimensions)):
        version = next((version for version in versions if version.fits(said)), None)
        if version is None:
            version = Version(said.instruction, said.source, said.size)
            versions.append(version)
            if len(versions) > 1:
                message = f"id {row.values['id']!r} stands for several tuples: images or instruction differ from row "
                message += f"{rows[0].number}. It becomes a group of its own"
                assembly.faults.note(row, "duplicate-id", message)
        version.images.update(zip(said.letters, said.images, strict=True))
        version.rows.setdefault(said.letters, []).append((row, said))
    built = [_build_version(version, key(rows[0]), assembly) for version in versions]
    return [one for one in built if one is not None]


def _parse(row: Row, dimensions: tuple[str, ...]) -> TupleRow:
    size = SUBSETS[row.choice("dataset", list(SUBSETS))]
    match = re.fullmatch(r"([A-D])vs([A-D])", row.text("comparison_type"))
    if match is None or not match[1] < match[2] <= LETTERS[size - 1]:
        kind = row.values["comparison_type"]
        raise RowFault("comparison-type", f"comparison_type {kind!r} is none of a tuple of {size}")
    letters = match[1], match[2]
    ranking = parse_ranking(row.text("ranking"))
    named = tuple(sorted(letter for tier in ranking for letter in tier))
    if named not in (letters, ("A", "B")):  # some rows of larger tuples call their two images A and B
        raise RowFault("ranking", f"ranking {row.values['ranking']!r} does not rank {letters[0]} and {letters[1]}")
    images = row.image("candidate_1"), row.image("candidate_2")
    if images[0] == images[1]:
        raise RowFault("same-image", "candidate_1 and candidate_2 are the same image")
    return TupleRow(
        size=size,
        instruction=row.text("instruction"),
        source=row.image("source_image"),
        letters=letters,
        images=images,
        verdict=verdict_of(ranking, *named),
        ranking=row.text("ranking"),
        models=(row.optional_text("model_1", UNKNOWN), row.optional_text("model_2", UNKNOWN)),
        scores=(scores_of(row, 1, dimensions), scores_of(row, 2, dimensions)),
        published={
            name: row.values[name]
            for side in SIDES
            for name in (f"score_{side}", f"overall_score_{side}")
            if name in row.values
        },
    )


def scores_of(row: Row, side: int, dimensions: tuple[str, ...]) -> dict[str, float]:
    """The scores by dimension of candidate 1 or 2, such as `visual_quality_2`. Raises `RowFault`."""
    scores = {name: row.number_of(f"{name}_{side}") for name in dimensions if f"{name}_{side}" in row.values}
    low, high = SCORE_RANGE
    for name, score in scores.items():
        if not low <= score <= high:
            raise RowFault("score-range", f"{name}_{side} is {score:g}, must be {low:g} to {high:g}")
    return scores


def _build_version(version: Version, tuple_key: list[Any], assembly: Assembly) -> Built | None:
    subset, name = tuple_key
    rows = _single_rows(version, name, assembly)
    if rows is None:
        return None
    first_row = next(iter(rows.values()))[0]
    letters = LETTERS[: version.size]
    missing = [f"{a}vs{b}" for a, b in combinations(letters, 2) if (a, b) not in rows]
    if missing:
        message = f"tuple {name!r} has no row {', '.join(missing)}"
        assembly.faults.error(first_row, "incomplete-tuple", message, "the tuple is left out")
        return None
    verdicts = {pair: said.verdict for pair, (_, said) in rows.items()}
    _check_transitive(first_row, verdicts, assembly)
    scores, editors = _candidates(rows.values(), assembly)
    candidates = {}
    for letter in letters:
        image = version.images[letter]
        editor, seed = split_seed(editors[image])
        candidates[image] = {"editor": editor, "seed": seed, "scores": scores[image]}
    details = {f"{a}vs{b}": {"ranking": said.ranking, **said.published} for (a, b), (_, said) in rows.items()}
    return _build_tuple(
        [row for row, _ in rows.values()],
        name,
        subset,
        version.instruction,
        version.source,
        [version.images[letter] for letter in letters],
        candidates,
        verdicts,
        details,
        assembly,
    )


def _single_rows(
    version: Version, name: str, assembly: Assembly
) -> dict[tuple[str, str], tuple[Row, TupleRow]] | None:
    """The row of each comparison; None, after a report, if rows on the same comparison have different verdicts."""
    single = {}
    for letters, said in version.rows.items():
        row, first = single[letters] = said[0]
        for other, again in said[1:]:
            if again.verdict != first.verdict:
                message = (
                    f"rows {row.number} and {other.number} have different verdicts on {'vs'.join(letters)} of {name!r}"
                )
                assembly.faults.error(other, "contradictory-verdict", message, "the tuple is left out")
                return None
            message = f"the comparison {'vs'.join(letters)} of {name!r} is that of row {row.number}; taken once"
            assembly.faults.note(other, "duplicate-id", message)
    return single


def _check_transitive(row: Row, verdicts: dict[tuple[str, str], Verdict], assembly: Assembly) -> None:
    wins = {letter: 0 for pair in verdicts for letter in pair}
    for (first, second), verdict in verdicts.items():
        wins[first] += {"first": 2, "tie": 1, "second": 0}[verdict]
        wins[second] += {"first": 0, "tie": 1, "second": 2}[verdict]
    if any(verdict != _by_wins(wins, pair) for pair, verdict in verdicts.items()):
        message = "the verdicts of the tuple are no ranking, so that no scores can get all of them right"
        assembly.faults.note(row, "no-ranking", message)
    elif len(wins) > 2 and "tie" in verdicts.values():
        assembly.faults.note(row, "tie", f"a tie in a tuple of {len(wins)}, where the protocol has strict rankings")


def _by_wins(wins: dict[str, int], pair: tuple[str, str]) -> Verdict:
    first, second = (wins[letter] for letter in pair)
    return "tie" if first == second else "first" if first > second else "second"


def _candidates(
    rows: Iterable[tuple[Row, TupleRow]], assembly: Assembly
) -> tuple[dict[str, dict[str, float | None]], dict[str, str]]:
    """Scores and model name of each image; a score on which rows differ becomes None, after a report."""
    scores: dict[str, dict[str, float | None]] = {}
    editors: dict[str, str] = {}
    for row, said in rows:
        for image, model, given in zip(said.images, said.models, said.scores, strict=True):
            if editors.setdefault(image, model) != model:
                message = f"an image is by {model!r}, in another row of the tuple by {editors[image]!r}"
                assembly.faults.error(row, "contradictory-model", message, f"{editors[image]!r} is kept")
            known = scores.setdefault(image, {})
            for name, score in given.items():
                if known.setdefault(name, score) not in (None, score):
                    message = f"an image has {name} {score:g}, in another row of the tuple {known[name]:g}"
                    assembly.faults.error(row, "contradictory-score", message, "the candidate gets no score of it")
                    known[name] = None
    return scores, editors


def _build_tuple(
    rows: list[Row],
    name: str,
    subset: str,
    instruction: str,
    source: str,
    images: list[str],
    candidates: Mapping[str, Mapping[str, object]],
    verdicts: dict[tuple[str, str], Verdict],
    details: dict[str, Any],
    assembly: Assembly,
) -> Built | None:
    """The group of a tuple; None, after a report, if an image is missing, since every comparison has to count."""
    built = assembly.build(rows[0], name, instruction, [source], candidates, minimum=len(images))
    if built is None:
        return None
    group, index = built
    at = {letter: index[image] for letter, image in zip(LETTERS, images, strict=False)}
    comparisons = [Comparison(at[first], at[second], verdict) for (first, second), verdict in sorted(verdicts.items())]
    group["preferences"] = preferences_of(comparisons)
    item = BenchmarkItem(
        benchmark=assembly.name,
        subset=subset,
        item_id=name,
        candidates=[at[letter] for letter in LETTERS[: len(images)]],
        comparisons=comparisons,
        file=rows[0].file,
        rows=sorted(row.number for row in rows),
        details=details,
    )
    return Built(group, [item])


def _assemble_json(rows: list[Row], assembly: Assembly) -> list[Built]:
    """The group of a tuple in the JSON form, and of those that repeat it."""
    source, instruction, images = key(rows[0])
    parsed = assembly.parsed(rows, _parse_vote)
    if not parsed:
        return []
    row, (ranking, text) = parsed[0]
    for other, (again, _) in parsed[1:]:
        if [sorted(tier) for tier in again] != [sorted(tier) for tier in ranking]:
            message = f"rows {row.number} and {other.number} rank the same images differently"
            assembly.faults.error(other, "contradictory-verdict", message, "the tuple is left out")
            return []
        assembly.faults.note(other, "duplicate-tuple", f"the tuple is that of row {row.number}; taken once")
    verdicts = {pair: verdict_of(ranking, *pair) for pair in combinations(LETTERS[: len(images)], 2)}
    _check_transitive(row, verdicts, assembly)
    name = f"{assembly.name}-{short_hash(source, instruction, images)}"
    subset, details = f"{len(images)}pair", {"ranking": text}
    candidates: dict[str, dict[str, object]] = {image: {} for image in images}
    built = _build_tuple([row], name, subset, instruction, source, images, candidates, verdicts, details, assembly)
    return [] if built is None else [built]


def _parse_vote(row: Row) -> tuple[list[list[str]], str]:
    images, vote = row.images("paths_generated"), row.values.get("human_vote")
    if f"{len(images)}pair" not in SUBSETS:
        raise RowFault("tuple-size", f"paths_generated has {len(images)} images, must have 2, 3 or 4")
    if len(set(images)) < len(images):
        raise RowFault("same-image", "paths_generated has an image twice")
    if not isinstance(vote, dict) or not isinstance(vote.get("ranking"), str):
        raise RowFault("ranking", f"human_vote must hold a ranking, unlike {vote!r}")
    ranking = parse_ranking(vote["ranking"])
    if sorted(letter for tier in ranking for letter in tier) != list(LETTERS[: len(images)]):
        raise RowFault("ranking", f"{vote['ranking']!r} does not rank the {len(images)} images")
    return ranking, vote["ranking"]


FORMAT = Format(
    name="editreward-bench",
    fields=(
        *("id", "dataset", "instruction", "source_image", "comparison_type", "ranking"),
        *(
            f"{name}_{side}"
            for name in ("candidate", "model", "score", "overall_score", "{dimension}")
            for side in SIDES
        ),
        *("prompt", "path_src", "paths_generated", "human_vote"),
    ),
    image_fields=("source_image", "candidate_1", "candidate_2", "path_src", "paths_generated"),
    key=key,
    assemble=assemble,
)

PUBLISHED = Published(
    PAPER,
    ("K = 2", "K = 3", "K = 4", "overall"),
    {
        "random": (25.81, 11.33, 1.35, 13.84),
        "GPT-4o": (45.69, 27.33, 7.31, 28.31),
        "GPT-5": (57.53, 38.51, 12.84, 37.81),
        "Gemini-2.0-Flash": (52.43, 33.33, 13.51, 33.47),
        "Gemini-2.5-Flash": (58.61, 39.86, 12.16, 38.02),
        "Qwen2.5-VL-3B (as judge)": (51.07, 20.27, 2.71, 26.86),
        "Qwen2.5-VL-7B (as judge)": (52.69, 24.67, 3.38, 29.75),
        "Qwen2.5-VL-32B (as judge)": (50.54, 25.27, 4.05, 28.72),
        "MiMo-VL-7B-SFT-2508 (as judge)": (49.46, 30.41, 9.46, 31.19),
        "EditReward, Qwen2.5-VL-7B": (56.99, 36.00, 10.81, 36.78),
        "EditReward, MiMo-VL-7B": (56.45, 42.67, 11.49, 38.42),
    },
    note="The random row fits a coin per pair with four verdicts at K = 2, of which one is right (25, 12.5, 1.6), "
    "not random scores (33 or more, 16.7, 4.2). Overall pools the tuples, which gives about half of this column "
    "exactly and the rest within one point.",
)

BENCHMARK = Benchmark(
    "editreward-bench",
    "EditReward-Bench (TIGER-Lab)",
    tuples,
    FORMAT,
    PUBLISHED,
    hub="TIGER-Lab/EditReward-Bench",
    ties=lambda item: len(item.candidates) == 2,
)
