"""The app's pages as HTML. Everything that comes from a dataset, a protocol or a person is escaped."""

from collections.abc import Sequence
from html import escape

from editreward.annotation.adjudication import TuplePage
from editreward.annotation.assignment import CalibrationResult
from editreward.annotation.people import SESSION_DAYS
from editreward.annotation.workflow import Page, letter
from editreward.groups.protocol import LEVELS, CalibrationTerms, Protocol

SHORTCUTS = (
    ("1 2 3 4", "score, and go on to the next"),
    ("← →", "other candidate"),
    ("↑ ↓", "other dimension"),
    ("V", "view large, and back"),
    ("F", "flicker between source and edit"),
    ("Space", "in the large view: show the source while held"),
    ("R", "in the large view: compare with another source image"),
    ("Ctrl + Enter", "save and go on"),
    ("B, N", "group before, group after"),
    ("S", "skip: go to the reasons"),
)

SIGN_IN = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in to rate images</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font-family: system-ui, sans-serif; line-height: 1.45; display: grid; place-items: center; min-height: 90vh;
margin: 0; }}
main {{ width: min(26rem, 90vw); }}
form {{ display: grid; gap: .75rem; margin: 1.25rem 0; }}
input, button {{ font: inherit; padding: .5rem; }}
label {{ display: grid; gap: .25rem; }}
.wrong {{ color: #b00020; margin: 0; }}
@media (prefers-color-scheme: dark) {{ .wrong {{ color: #ff8a80; }} }}
</style>
</head>
<body>
<main>
<h1>Rate edited images</h1>
<p>You compare edits of an image with the instruction that they should follow, and give each a mark. This needs no
software, and you can stop at any time: what you have marked is kept.</p>
<form method="post" action="sign-in">
{message}
<label>Name <input name="name" value="{name}" maxlength="64" autocomplete="username" required autofocus></label>
<label>Token <input name="token" type="password" maxlength="200" autocomplete="current-password" required></label>
<button>Sign in</button>
</form>
<p>Name and token come from the person who invited you. If you have lost the token, ask them for a new one. Your
ratings are kept under your name, and you stay signed in on this device for {days} days or until you sign out.</p>
</main>
</body>
</html>
"""


def sign_in_page(message: str = "", name: str = "") -> str:
    """The page for who is not signed in: what it is for, and nothing about the data.

    Args:
        message: what went wrong.
        name: what was typed as the name.
    """
    shown = f'<p class="wrong" role="alert">{escape(message)}</p>' if message else ""
    return SIGN_IN.format(message=shown, name=escape(name), days=SESSION_DAYS)


def header(title: str, annotator: str, status: str) -> str:
    """Title, who is signed in, and how far they are."""
    return (
        f'<div class="page-head"><h1>{escape(title)}</h1><p class="status">{status}</p>'
        f'<form method="post" action="sign-out">{escape(annotator)} <button>Sign out</button></form></div>'
    )


def rating_status(page: Page) -> str:
    """How far an annotator is, for the header."""
    progress = page.progress
    parts = []
    if page.assignment is not None:
        if page.assignment.purpose == "calibration":
            parts.append(f"<b>Calibration round {page.assignment.round}</b>")
        parts.append(f"Group {page.place} of your {page.places}")
    parts.append(f"{progress.rated} rated, {progress.skipped} skipped")
    if page.left:
        parts.append(f"{page.left} to do for all of you")
    return " · ".join(parts)


def page_key(key: str) -> str:
    """Tells the script that another page is shown."""
    return f'<span id="page-key" data-key="{escape(key)}" hidden></span>'


def notice(text: str) -> str:
    """What happened to the last action, read out by screen readers."""
    return f'<p class="notice" role="status">{escape(text)}</p>' if text else '<p role="status"></p>'


def task(instruction: str, images: Sequence[str]) -> str:
    """The instruction and the source images, given by URL."""
    shown = "".join(
        f'<button class="view" type="button" data-view="source" data-number="{number}">'
        f'<img class="source" src="{escape(url)}" alt="Source image {number + 1}"></button>'
        for number, url in enumerate(images)
    )
    return (
        f'<h2>Instruction</h2><p class="instruction" dir="auto">{escape(instruction)}</p>'
        f'<h2>Source</h2><div class="sources">{shown}</div>'
    )


def candidate(place: int, url: str, extra: str = "") -> str:
    """One candidate: its letter and its image, given by URL. `extra` is HTML."""
    name = letter(place)
    return (
        f"<h2>{name}</h2>"
        f'<button class="view" type="button" data-view="candidate" data-number="{place}">'
        f'<img class="candidate" src="{escape(url)}" alt="Candidate {name}"></button>{extra}'
    )


def reference_note(reference: dict[str, float], protocol: Protocol) -> str:
    """The known answers of a candidate of the calibration round."""
    answers = [
        f"{escape(dimension.title)} {reference[dimension.name]:g}"
        for dimension in protocol.dimensions
        if dimension.name in reference
    ]
    return f'<p class="reference">Reference: {", ".join(answers)}</p>' if answers else ""


def reasons_note(reasons: str) -> str:
    """What a scorer says of a candidate, for people who have rated it."""
    lines = "<br>".join(map(escape, reasons.splitlines()))
    return f'<p class="reasons">A scorer says: {lines}</p>' if reasons else ""


def rubric(protocol: Protocol) -> str:
    """The rubric, all of it unless the annotator folds it up; and folded up the introduction and the keys."""
    parts = []
    for dimension in protocol.dimensions:
        levels = "".join(
            f'<li value="{level}">{escape(dimension.levels[level])}</li>' for level in sorted(LEVELS, reverse=True)
        )
        parts.append(
            f"<section><h3>{escape(dimension.title)}</h3><p>{escape(dimension.question)}</p>"
            f'<ol class="levels">{levels}</ol></section>'
        )
    keys = "".join(f"<dt>{escape(keys)}</dt><dd>{escape(what)}</dd>" for keys, what in SHORTCUTS)
    about = ""
    if protocol.introduction:
        about = f"<details><summary>About</summary><p>{escape(protocol.introduction)}</p></details>"
    return (
        '<div class="rubric"><details class="scores" open><summary>What the scores mean</summary>'
        f'<div class="dimensions">{"".join(parts)}</div></details>{about}'
        f'<details class="keys"><summary>Keys</summary><dl>{keys}</dl></details></div>'
    )


def message(page: Page, protocol: Protocol) -> str:
    """What stands in place of a group: the calibration round's terms or result, or that nothing is left."""
    if page.kind == "finished":
        text = "<h2>Thank you</h2><p>There is nothing left for you to rate.</p>"
        if page.left:
            text += f"<p>{page.left} ratings are still open with others. What they give up will be offered to you.</p>"
        return text
    if page.result is None:
        introduction = f"<p>{escape(protocol.introduction)}</p>" if protocol.introduction else ""
        return f"<h2>Calibration</h2>{introduction}<p>{_terms(page.round_size, protocol.calibration)}</p>"
    return _result(page.result, protocol)


def _terms(groups: int, terms: CalibrationTerms) -> str:
    return (
        f"Before you start, please rate {groups} groups whose scores are known. To pass, in every dimension at "
        f"least {terms.exact:.0%} of your scores must be the known ones, and {terms.within_one:.0%} at most one point "
        "off. You see the known scores at the end of the round."
    )


def _result(result: CalibrationResult, protocol: Protocol) -> str:
    rows = "".join(
        f"<tr><th>{escape(dimension.title)}</th><td>{result.exact[dimension.name]:.0%}</td>"
        f"<td>{result.within_one[dimension.name]:.0%}</td></tr>"
        for dimension in protocol.dimensions
        if dimension.name in result.exact
    )
    table = (
        "<table><tr><th></th><th>as known</th><th>at most one point off</th></tr>"
        f"{rows}<tr><th>needed</th><td>{protocol.calibration.exact:.0%}</td>"
        f"<td>{protocol.calibration.within_one:.0%}</td></tr></table>"
    )
    if result.passed:
        text = "You passed."
    elif result.rounds_left:
        text = "This was not close enough. Please look at the known scores, with Back, and try again."
    else:
        text = "This was not close enough, and was the last round. Please talk to who gave you your token."
    return f"<h2>Calibration round {result.round}</h2><p>{text}</p>{table}"


def tuple_status(page: TuplePage) -> str:
    """How far the adjudication round is, for the header."""
    return f"Tuple {page.place} of {page.places} · {page.open} not settled · {page.waiting} waiting for you"


def score_table(scores: dict[str, dict[str, float]], protocol: Protocol) -> str:
    """What annotators gave a candidate."""
    if not scores:
        return '<p class="scores">Nobody has scored it.</p>'
    heads = "".join(f"<th>{escape(dimension.title)}</th>" for dimension in protocol.dimensions)
    rows = "".join(
        f"<tr><th>{escape(annotator)}</th>"
        + "".join(
            f"<td>{values[dimension.name]:g}</td>" if dimension.name in values else "<td>–</td>"
            for dimension in protocol.dimensions
        )
        + "</tr>"
        for annotator, values in sorted(scores.items())
    )
    return f'<table class="scores"><tr><th></th>{heads}</tr>{rows}</table>'


def proposals(page: TuplePage) -> str:
    """What annotators propose, and whether that settles the tuple."""
    if page.disputed is None:
        return ""
    rows = "".join(
        f"<tr><th>{escape(proposal.annotator)}</th><td>{ranking_text(proposal.ranks)}</td>"
        f"<td>{escape(proposal.comment)}</td></tr>"
        for proposal in page.proposals
    )
    text = "Settled." if page.settled else f"{page.quorum} of you have to propose the same."
    if page.read_only:
        text = "Settled by the others."
    return (
        f"<h2>Proposals</h2><p>Why this tuple is here: {escape(page.disputed.reason)}</p>"
        f'<p class="settled">{text}</p><table class="proposals">{rows}</table>'
    )


def ranking_text(ranks: Sequence[int] | None) -> str:
    """A ranking as in "B > A > C", best first."""
    if ranks is None:
        return "leave out"
    order = sorted(range(len(ranks)), key=lambda place: (ranks[place], place))
    text = letter(order[0])
    for before, place in zip(order, order[1:], strict=False):
        text += f" {'=' if ranks[before] == ranks[place] else '&gt;'} {letter(place)}"
    return text
