"""The page on which annotators rank a tuple jointly, as Gradio blocks."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from editreward.annotation import pages
from editreward.annotation.adjudication import Adjudication, TuplePage
from editreward.groups.protocol import Protocol

REFRESH_SECONDS = 5.0
"""How often the proposals of others are looked up."""

Updates = dict[Any, Any]


def adjudication_blocks(adjudication: Adjudication, protocol: Protocol) -> gr.Blocks:
    """The adjudication page: a tuple, everybody's scores and proposals, and one's own ranking."""
    most = max(len(entry.candidates) for entry in adjudication.tuples)
    title = f"{protocol.title}: adjudication"

    with gr.Blocks(title=title, analytics_enabled=False, fill_width=True) as blocks:
        form = gr.Number(visible=False, precision=0)
        head = gr.HTML()
        notice = gr.HTML(elem_id="notice")
        with gr.Row():
            with gr.Column(scale=2, min_width=280, elem_id="task"):
                task = gr.HTML()
                proposals = gr.HTML(elem_id="proposals")
                gr.HTML(pages.rubric(protocol))
            with gr.Column(scale=5, elem_id="cards"):
                cards, images, ranks = [], [], []
                for place in range(most):
                    with gr.Column(elem_classes=["candidate-card"], visible=False) as card:
                        images.append(gr.HTML())
                        ranks.append(
                            gr.Radio(
                                [(str(rank), rank) for rank in range(1, most + 1)],
                                label="Rank, 1 is best",
                                elem_id=f"rank-{place}",
                                elem_classes=["rating"],
                            )
                        )
                    cards.append(card)
        with gr.Row():
            comment = gr.Textbox(label="Comment, which the others see", lines=1, max_length=1000)
        with gr.Row():
            back = gr.Button("Back", elem_id="back")
            forward = gr.Button("Forward", elem_id="forward")
            leave_out = gr.Button("Propose to leave this tuple out", elem_id="leave-out")
            save = gr.Button("Propose this ranking", variant="primary", elem_id="save")
        timer = gr.Timer(REFRESH_SECONDS)
        everything = [form, head, notice, task, proposals, *cards, *images, *ranks, comment, leave_out, save]

        def shown(page: TuplePage, annotator: str) -> Updates:
            """What has to change on the screen to show `page`."""
            assert page.disputed is not None
            mine = next((proposal for proposal in page.proposals if proposal.annotator == annotator), None)
            updates: Updates = {
                form: page.place - 1,
                head: pages.header(title, annotator, pages.tuple_status(page))
                + pages.page_key(page.disputed.tuple_id),
                notice: pages.notice(page.notice),
                task: pages.task(
                    page.instruction, [f"tuple/{page.place - 1}/source/{number}" for number in range(page.sources)]
                ),
                proposals: pages.proposals(page),
                comment: mine.comment if mine else "",
                leave_out: gr.update(visible=not page.read_only),
                save: gr.update(visible=not page.read_only),
            }
            count = len(page.disputed.candidates)
            for place in range(most):
                updates[cards[place]] = gr.update(visible=place < count)
                if place < count:
                    url = f"tuple/{page.place - 1}/candidate/{place}"
                    table = pages.score_table(page.scores[place], protocol)
                    updates[images[place]] = pages.candidate(place, url, table)
                    updates[ranks[place]] = gr.update(
                        choices=[(str(rank), rank) for rank in range(1, count + 1)],
                        value=mine.ranks[place] if mine and mine.ranks else None,
                        interactive=not page.read_only,
                    )
            return updates

        def answer(annotator: str, action: Callable[[], TuplePage]) -> Updates:
            """Do what was asked for, or say what is wrong with it."""
            try:
                return shown(action(), annotator)
            except ValueError as error:
                return {notice: pages.notice(str(error))}
            except LookupError as error:
                return shown(adjudication.current(annotator, str(error)), annotator)

        def on_load(request: gr.Request) -> Updates:
            return answer(request.username, lambda: adjudication.current(request.username))

        def on_back(form: int | None, request: gr.Request) -> Updates:
            return answer(request.username, lambda: adjudication.show(request.username, _place(form) - 1))

        def on_forward(form: int | None, request: gr.Request) -> Updates:
            return answer(request.username, lambda: adjudication.show(request.username, _place(form) + 1))

        def on_save(form: int | None, comment: str, request: gr.Request, *values: int | None) -> Updates:
            def action() -> TuplePage:
                place = _place(form)
                page = adjudication.show(request.username, place)
                assert page.disputed is not None
                marked = values[: len(page.disputed.candidates)]
                return adjudication.propose(request.username, place, marked, comment or "")

            return answer(request.username, action)

        def on_leave_out(form: int | None, comment: str, request: gr.Request) -> Updates:
            return answer(
                request.username, lambda: adjudication.propose(request.username, _place(form), None, comment or "")
            )

        def on_tick(form: int | None, request: gr.Request) -> Any:
            if form is None:
                return gr.skip()
            return pages.proposals(adjudication.show(request.username, _place(form)))

        options: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
        blocks.load(on_load, None, everything, **options)
        back.click(on_back, form, everything, **options)
        forward.click(on_forward, form, everything, **options)
        save.click(on_save, [form, comment, *ranks], everything, **options)
        leave_out.click(on_leave_out, [form, comment], everything, **options)
        timer.tick(on_tick, form, proposals, **options)
    return blocks


def _place(form: int | None) -> int:
    if form is None:
        raise LookupError("This page is out of date.")
    return int(form)
