"""The page on which candidates are rated, as Gradio blocks."""

import json
from collections.abc import Callable
from typing import Any

import gradio as gr

from editreward.annotation import pages
from editreward.annotation.workflow import Page, Workflow
from editreward.groups.protocol import LEVELS

Updates = dict[Any, Any]

NO_FORM = "{}"
"""What the hidden field holds while no group is shown."""


def rating_blocks(workflow: Workflow) -> gr.Blocks:
    """The rating page. The page in the browser holds the form's state, so it survives a restart of the server."""
    protocol, store = workflow.protocol, workflow.store
    most = max(store.candidates.values())

    with gr.Blocks(title=protocol.title, analytics_enabled=False, fill_width=True) as blocks:
        form = gr.Textbox(visible=False)
        head = gr.HTML()
        notice = gr.HTML(elem_id="notice")
        with gr.Column(visible=False) as message_area:
            message = gr.HTML()
            start = gr.Button("Start", variant="primary", elem_id="start", visible=False)
        with gr.Row(visible=False) as group_area:
            with gr.Column(scale=2, min_width=280, elem_id="task"):
                task = gr.HTML()
                gr.HTML(pages.rubric(protocol))
            with gr.Column(scale=5, elem_id="cards"):
                cards, images, radios = [], [], {}
                for place in range(most):
                    with gr.Column(elem_classes=["candidate-card"], visible=False) as card:
                        images.append(gr.HTML())
                        for dimension in protocol.dimensions:
                            radios[place, dimension.name] = gr.Radio(
                                [(str(level), level) for level in LEVELS],
                                label=dimension.title,
                                elem_id=f"rate-{place}-{dimension.name}",
                                elem_classes=["rating"],
                            )
                    cards.append(card)
        with gr.Row():
            back = gr.Button("Back", elem_id="back")
            forward = gr.Button("Forward", elem_id="forward")
            save = gr.Button("Save and go on", variant="primary", elem_id="save")
        with gr.Row(elem_id="skip-area") as skip_area:
            reason = gr.Radio(list(protocol.skip_reasons), label="Reason to skip this group", scale=4)
            comment = gr.Textbox(label="Comment", lines=1, max_length=1000, scale=2)
            skip = gr.Button("Skip", elem_id="skip", scale=1)

        everything = [form, head, notice, message_area, message, start, group_area, task]
        everything += [*cards, *images, *radios.values(), save, skip_area, reason, comment]

        def shown(page: Page, annotator: str) -> Updates:
            """What has to change on the screen to show `page`."""
            assignment = page.assignment
            key = f"{assignment.id}-{page.form}" if assignment else page.kind
            updates: Updates = {
                head: pages.header(protocol.title, annotator, pages.rating_status(page)) + pages.page_key(key),
                notice: pages.notice(page.notice),
                message_area: gr.update(visible=assignment is None),
                group_area: gr.update(visible=assignment is not None),
                save: gr.update(visible=assignment is not None and not page.read_only),
                skip_area: gr.update(
                    visible=assignment is not None and assignment.purpose != "calibration" and not page.read_only
                ),
                reason: None,
                comment: "",
            }
            if assignment is None:
                may_start = page.kind == "calibration" and (page.result is None or page.result.rounds_left > 0)
                goes_on = page.result is not None and page.result.passed
                updates[message] = pages.message(page, protocol)
                updates[start] = gr.update(
                    visible=page.kind == "calibration" and (may_start or goes_on),
                    value="Go on" if goes_on else "Start",
                )
                updates[form] = NO_FORM
                return updates
            updates[form] = json.dumps({"assignment": assignment.id, "version": assignment.version, "form": page.form})
            urls = [f"image/{assignment.id}/source/{number}" for number in range(page.sources)]
            updates[task] = pages.task(page.instruction, urls)
            for place in range(most):
                used = place < len(assignment.order)
                updates[cards[place]] = gr.update(visible=used)
                if used:
                    answers = pages.reference_note(page.reference[place], protocol) if page.reference else ""
                    url = f"image/{assignment.id}/candidate/{place}"
                    updates[images[place]] = pages.candidate(place, url, answers)
                for name in protocol.names:
                    updates[radios[place, name]] = gr.update(
                        value=page.scores.get((place, name)), interactive=not page.read_only
                    )
            return updates

        def answer(annotator: str, action: Callable[[], Page]) -> Updates:
            """Do what was asked for, or say what is wrong with it."""
            try:
                return shown(action(), annotator)
            except ValueError as error:
                return {notice: pages.notice(str(error))}
            except LookupError as error:
                return shown(workflow.current(annotator, str(error)), annotator)

        def on_load(request: gr.Request) -> Updates:
            return answer(request.username, lambda: workflow.current(request.username))

        def on_start(request: gr.Request) -> Updates:
            return answer(request.username, lambda: workflow.start_round(request.username))

        def on_back(form: str, request: gr.Request) -> Updates:
            return answer(request.username, lambda: workflow.back(request.username, _shown_assignment(form)))

        def on_forward(form: str, request: gr.Request) -> Updates:
            return answer(request.username, lambda: workflow.forward(request.username, _shown_assignment(form)))

        def on_save(form: str, request: gr.Request, *scores: Any) -> Updates:
            def action() -> Page:
                assignment, version, name = _form(form)
                order = workflow.database.assignment(assignment, request.username).order
                marked = dict(zip(radios, scores, strict=True))
                used = {key: score for key, score in marked.items() if key[0] < len(order)}
                return workflow.submit(request.username, assignment, version, name, used)

            return answer(request.username, action)

        def on_skip(form: str, reason: str | None, comment: str, request: gr.Request) -> Updates:
            def action() -> Page:
                return workflow.skip(request.username, *_form(form), reason or "", comment or "")

            return answer(request.username, action)

        def on_mark(place: int, name: str) -> Callable[..., Any]:
            def mark(form: str, score: int | None, request: gr.Request) -> Any:
                assignment, version, _ = _form(form)
                if score is not None and not workflow.save_draft(
                    request.username, assignment, version, place, name, score
                ):
                    return pages.notice(
                        "This group was saved in another tab or window. Reload the page to see what was saved there."
                    )
                return gr.skip()

            return mark

        # Requests are short: what takes time is people. None waits for another one, and none is dropped.
        options: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
        blocks.load(on_load, None, everything, **options)
        start.click(on_start, None, everything, **options)
        back.click(on_back, form, everything, **options)
        forward.click(on_forward, form, everything, **options)
        save.click(on_save, [form, *radios.values()], everything, **options)
        skip.click(on_skip, [form, reason, comment], everything, **options)
        for (place, name), radio in radios.items():
            radio.input(on_mark(place, name), [form, radio], notice, trigger_mode="always_last", **options)
    return blocks


def _shown_assignment(text: str) -> int | None:
    """The assignment on the page; None where there is none."""
    return _form(text)[0] if text not in ("", NO_FORM) else None


def _form(text: str) -> tuple[int, int, str]:
    """The hidden field of the form: assignment, version and the form's name. A LookupError if it was made up."""
    try:
        content = json.loads(text or NO_FORM)
        return int(content["assignment"]), int(content["version"]), str(content["form"])
    except (KeyError, TypeError, ValueError) as error:
        raise LookupError("This page is out of date.") from error
