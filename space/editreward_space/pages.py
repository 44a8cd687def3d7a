"""Results as HTML. Everything that users or models bring is escaped; scores are always also in figures."""

from collections.abc import Sequence
from html import escape
from statistics import quantiles
from typing import Any

from PIL import Image

from editreward.groups import CandidateScore, DimensionScore, GroupScores
from editreward.groups.where import Where
from editreward.reports.text import percent
from editreward_space.batch import MOST_SHOWN, BatchProgress, BestEdit
from editreward_space.images import data_uri
from editreward_space.settings import Settings

LOW, HIGH = 1.0, 4.0
"""The scale of the annotation rubric, on which calibrated scores are."""

BINS = 12

SHOWN_FIRST = 8
"""The best edits of a batch that are shown until the reader asks for another number."""


def model_note(description: dict[str, Any]) -> str:
    """Which model answers, and what one must know about it."""
    notes = " ".join(description["notes"])
    return f'<p class="er-note">Model: <b>{escape(description["model"])}</b>. {escape(notes)}</p>'


def problem(error: Exception) -> str:
    """What is wrong with what a user sent, in the place of the result."""
    return f'<p class="er-note er-problem" role="alert"><b>Error:</b> {escape(str(error))}</p>'


def note(text: str) -> str:
    """What goes on, in the place of the result."""
    return f'<p class="er-note" role="status">{escape(text)}</p>'


def ranking_page(
    sources: Sequence[Image.Image],
    names: Sequence[str],
    edited: Sequence[Image.Image],
    instruction: str,
    scores: GroupScores,
    where: Sequence[Where] = (),
) -> str:
    """The candidates of a group in ranked order, each to be compared with the source, and what speaks against it."""
    cards = "".join(
        _card(names[index], data_uri(edited[index]), scores, index, heat_pictures(where[index]) if where else "")
        for index in scores.order
    )
    shown = "".join(
        f'<img src="{data_uri(image)}" alt="Source image{_number(place, sources)}">'
        for place, image in enumerate(sources, 1)
    )
    winner = escape(names[scores.index])
    sure = (
        "" if scores.probability is None else f", with a probability of {_percent(scores.probability)} to be the best"
    )
    return (
        f'<section class="er-result" aria-label="Ranking"><p class="er-answer" role="status">Best of {len(names)}: '
        f"<b>{winner}</b>{sure}.{doubt(scores.probability)}</p>"
        f'<div class="er-task"><figure><div class="er-sources">{shown}</div><figcaption>Source</figcaption></figure>'
        f'<blockquote class="er-instruction" dir="auto">{escape(instruction)}</blockquote></div>'
        f'<div class="er-cards">{cards}</div></section>'
    )


def heat_pictures(where: Where) -> str:
    """An edited image under the heat of what speaks against it, by dimension."""
    pictures = "".join(
        f'<figure><img src="{data_uri(where.picture(name))}" alt="What speaks against it in {title(name).lower()}, in '
        f'red"><figcaption>{title(name)}</figcaption></figure>'
        for name in where.maps
    )
    return f'<div class="er-heat"><p class="er-faint">What speaks against it, in red</p>{pictures}</div>'


def doubt(probability: float | None) -> str:
    """What to add about the best edit where it is more probable that another one is."""
    if probability is None or probability >= 0.5:
        return ""
    return f" The model does not know: with {_percent(1 - probability)} another one is the best."


def doubt_between_two(probability: float) -> str:
    """What to add where each of two edits is nearly as probable to be the better one."""
    return " The model does not know which is better." if 0.4 < probability < 0.6 else ""


def _percent(probability: float) -> str:
    return escape(percent(probability))


def _number(place: int, images: Sequence[Any]) -> str:
    return f" {place}" if len(images) > 1 else ""


def _card(name: str, uri: str, scores: GroupScores, index: int, heat: str) -> str:
    score, rank = scores.scores[index], scores.ranks[index]
    chance = ""
    if scores.probabilities:
        probability = scores.probabilities[index]
        chance = f'<p class="er-line"><span>P(best)</span><b>{_percent(probability)}</b></p>{share_bar(probability)}'
    shown_scores = {**({"overall": score.overall} if score.overall else {}), **score.dimensions}
    bars = "".join(dimension_bar(title(name), value) for name, value in shown_scores.items())
    shown = escape(name)
    return (
        f'<article class="er-card" aria-label="Rank {rank}: {shown}">'
        f'<h3><span class="er-rank">{rank}.</span> {shown}</h3>'
        f'<div class="er-view"><img class="er-edit" src="{uri}" alt="Edited image {shown}, rank {rank}">'
        '<img class="er-source" alt="Source image" hidden></div>'
        '<div class="er-buttons"><button type="button" data-er="flicker" aria-pressed="false">Flicker</button>'
        '<button type="button" data-er="side" aria-pressed="false">Side by side</button></div>'
        f"{heat}{bars}"
        f'{chance}<p class="er-line er-faint"><span>reward (raw)</span><span>{reward(score)}</span></p></article>'
    )


def reward(score: CandidateScore) -> str:
    """A raw reward in figures."""
    return str(DimensionScore(score.reward))


def title(dimension: str) -> str:
    """A dimension's name as it is shown."""
    return dimension.replace("_", " ").capitalize()


def dimension_bar(label: str, score: DimensionScore) -> str:
    """Score of a dimension in figures and, where it has a scale, as a bar from 1 to 4 with a line of ± std."""
    line = f'<p class="er-line"><span>{escape(label)}</span><b>{score}</b></p>'
    if not score.calibrated:
        return line.replace("</span>", " (uncalibrated)</span>")
    std = score.shown_std
    low, middle, high = (_share(score.mean + offset) for offset in (-(std or 0), 0, std or 0))
    spread = "" if std is None else f'<u style="left:{low:.1f}%;width:{high - low:.1f}%"></u>'
    return f'{line}<div class="er-bar" aria-hidden="true"><i style="width:{middle:.1f}%"></i>{spread}</div>'


def _share(value: float) -> float:
    """Where on the scale a score is, in percent."""
    return 100 * min(max((value - LOW) / (HIGH - LOW), 0), 1)


def share_bar(probability: float) -> str:
    """A probability as a bar."""
    return f'<div class="er-bar" aria-hidden="true"><i style="width:{100 * probability:.1f}%"></i></div>'


def comparison_page(
    names: Sequence[str], edited: Sequence[Image.Image], comparison: dict[str, Any], scores: GroupScores
) -> str:
    """Two edits under a slider, and how probable it is that the first is preferred."""
    first, second = (escape(name) for name in names)
    overall, by_dimension = comparison["probability_first"], comparison["probability_first_by_dimension"]
    one, other = scores.scores
    rows = "".join(
        f'<tr><th scope="row">{escape(title(name))}</th><td>{_chance(by_dimension.get(name))}</td>'
        f"<td>{_figure(one.dimensions[name])}</td><td>{_figure(other.dimensions[name])}</td></tr>"
        for name in one.dimensions
    )
    rewards = "".join(f"<td>{_figure(score.overall or reward(score))}</td>" for score in (one, other))
    overall_is = "from 1 to 4, too" if one.overall else "raw rewards"
    answer = (
        ""
        if overall is None
        else (
            f"The first edit is preferred with a probability of <b>{_percent(overall)}</b>, the second with "
            f"{_percent(1 - overall)}.{doubt_between_two(overall)}"
        )
    )
    scale = "1 to 4" if comparison["calibrated"] else "uncalibrated"
    return (
        '<section class="er-result" aria-label="Comparison">'
        f'<p class="er-answer" role="status">{answer}</p>'
        f'<div class="er-slider"><img src="{data_uri(edited[1])}" alt="Second edit, {second}">'
        f'<img class="er-over" src="{data_uri(edited[0])}" alt="First edit, {first}">'
        '<span class="er-split"></span></div>'
        '<label class="er-range"><span>First</span><input type="range" min="0" max="100" value="50" '
        'aria-label="How much of the first edit is shown, from the left, in percent"><span>Second</span></label>'
        f'<div class="er-scroll"><table><thead><tr><td></td><th scope="col">P(first preferred)</th>'
        f'<th scope="col">First<br><small>{first}</small></th><th scope="col">Second<br><small>{second}</small></th>'
        f'</tr></thead><tbody>{rows}<tr><th scope="row">Overall</th><td>{_chance(overall)}</td>'
        f'{rewards}</tr></tbody></table></div><p class="er-faint">Dimensions: {scale}. Overall: {overall_is}. What '
        "follows a ± is a standard deviation.</p></section>"
    )


def _figure(score: DimensionScore | str) -> str:
    """A score; on a phone the standard deviation stands below it."""
    mean, plus_minus, std = str(score).partition(" ± ")
    return f'{mean} <span class="er-std">± {std}</span>' if plus_minus else mean


def _chance(probability: float | None) -> str:
    return "" if probability is None else f"{_percent(probability)}{share_bar(probability)}"


def batch_page(
    progress: BatchProgress, dimensions: Sequence[str], calibrated: bool, best: Sequence[BestEdit] = ()
) -> str:
    """How far a batch is and, once it is finished, its errors, its best edits and a histogram per dimension."""
    bar = f'<progress max="{max(progress.total, 1)}" value="{progress.done}" aria-label="Groups done"></progress>'
    scored = progress.done - progress.errors
    status = f"{progress.done} of {progress.total} groups: {scored} scored, {progress.errors} with errors."
    parts = [f'<p role="status">{status}</p>{bar}']
    if progress.note:
        parts.append(f'<p class="er-note" role="alert">{escape(progress.note)}</p>')
    if progress.finished:
        errors = [row for row in progress.rows if row["error"]]
        if errors:
            items = "".join(f"<li><b>{escape(row['group'])}</b>: {escape(row['error'])}</li>" for row in errors[:20])
            more = f"<li>and {len(errors) - 20} more, in the table</li>" if len(errors) > 20 else ""
            parts.append(f'<h3>Not scored</h3><ul class="er-errors">{items}{more}</ul>')
        if best:
            parts.append(best_edits(best))
        for name in dimensions:
            values = [row[name] for row in progress.rows if row[name] is not None]
            if values:
                parts.append(histogram(f"{title(name)}{'' if calibrated else ' (uncalibrated)'}", values, calibrated))
    return f'<section class="er-result" aria-label="Batch">{"".join(parts)}</section>'


def best_edits(edits: Sequence[BestEdit]) -> str:
    """The best edits as pictures; how many are shown, and whether only the best of each group, is the reader's."""
    most = min(len(edits), MOST_SHOWN)
    tiles = "".join(
        f'<figure class="er-tile" data-leads="{int(edit.leads)}"{"" if place < SHOWN_FIRST else " hidden"}>'
        f'<img src="{edit.picture}" alt="Edited image {escape(edit.name)} of group {escape(edit.group)}">'
        f"<figcaption><b>{escape(edit.score)}</b> {escape(edit.name)}<br><small>{escape(edit.group)}: "
        f"{escape(shortened(edit.instruction))}</small></figcaption></figure>"
        for place, edit in enumerate(edits)
    )
    return (
        '<div class="er-best"><h3>The best edits</h3><p class="er-choice"><label>Show '
        f'<input type="number" min="1" max="{most}" value="{min(most, SHOWN_FIRST)}" '
        'aria-label="How many edits to show"></label>'
        '<label><input type="checkbox"> only the best of each group</label>'
        f'</p><div class="er-tiles">{tiles}</div></div>'
    )


def shortened(text: str, most: int = 100) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"


def histogram(label: str, values: Sequence[float], calibrated: bool) -> str:
    """Counts of scores, on the scale where there is one; scores beyond its ends count at the ends."""
    low, high = (LOW, HIGH) if calibrated else (min(values), max(values))
    width = (high - low) / BINS or 1.0
    counts = [0] * BINS
    for value in values:
        counts[min(max(int((value - low) / width), 0), BINS - 1)] += 1
    columns = "".join(
        f'<span title="{low + place * width:.2f} to {low + (place + 1) * width:.2f}: {count}">'
        f'<small>{count or ""}</small><i style="height:{100 * count / max(counts):.0f}%"></i></span>'
        for place, count in enumerate(counts)
    )
    lower, middle, upper = quantiles([*values, *values][: max(len(values), 2)], n=4, method="inclusive")
    summary = f"{len(values)} edits, median {middle:.2f}, half of them from {lower:.2f} to {upper:.2f}"
    return (
        f'<figure class="er-histogram"><figcaption><b>{escape(label)}</b>: {summary}</figcaption>'
        f'<div class="er-columns" role="img" aria-label="Histogram of {escape(label)}: {summary}">{columns}</div>'
        f'<div class="er-axis" aria-hidden="true"><span>{low:.4g}</span><span>{high:.4g}</span></div></figure>'
    )


def limits_table(settings: Settings) -> str:
    """The limits, for the About tab."""
    rows = (
        ("Uploaded file", f"{settings.max_upload_mb} MB"),
        ("Image", f"{settings.max_image_mb} MB, {settings.max_megapixels} megapixels"),
        (
            "Group",
            f"{settings.max_sources} source and {settings.max_candidates} edited images, "
            f"{settings.max_group_megapixels} megapixels together",
        ),
        ("Instruction", f"{settings.max_instruction} characters"),
        (
            "Batch",
            f"{settings.max_rows} groups, {settings.max_batch_mb} MB unpacked, "
            f"{settings.max_batch_megapixels} megapixels, {settings.batch_seconds} seconds",
        ),
        ("At the same time", f"{settings.max_batches} batches, {settings.max_queue} requests in the queue"),
        (
            "Uploads and downloads",
            f"deleted after {settings.keep_minutes} minutes, {settings.max_stored_mb} MB of all users",
        ),
    )
    body = "".join(f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in rows)
    return f'<div class="er-scroll"><table><tbody>{body}</tbody></table></div>'
