"""The page on which annotators rank a tuple jointly, as Gradio blocks."""

import json

import gradio as gr

from editreward.annotation import pages
from editreward.annotation.adjudication import Adjudication, DisputedTuple, Proposal, TuplePage
from editreward.annotation.database import UnsavedError
from editreward.annotation.screen import EVENT_OPTIONS, Screen, Updates, number_choices, numbered_radio
from editreward.groups.protocol import MAX_COMMENT, Protocol

REFRESH_SECONDS = 5.0
"""How often the proposals of others are looked up."""


def adjudication_blocks(adjudication: Adjudication, protocol: Protocol) -> gr.Blocks:
    """The adjudication page."""
    return AdjudicationScreen(adjudication, protocol).blocks()


class AdjudicationScreen(Screen[TuplePage]):
    """A tuple, everybody's scores and proposals, and one's own ranking.

    The form's state is the tuple and its candidates, not its place: a page may outlive the file that was served.
    """

    def __init__(self, adjudication: Adjudication, protocol: Protocol) -> None:
        most = max(len(entry.candidates) for entry in adjudication.tuples)
        super().__init__(protocol, f"{protocol.title}: adjudication", most)
        self.adjudication = adjudication
        self.places = {_form(entry): place for place, entry in enumerate(adjudication.tuples)}

    # What is on the screen

    def lay_out(self) -> None:
        """See `Screen`."""
        self.form = gr.Textbox(visible=False)
        self.head = gr.HTML()
        self.notice = gr.HTML(elem_id="notice")
        gr.HTML(pages.rubric(self.protocol))
        with gr.Row():
            with gr.Column(scale=2, min_width=280, elem_id="task"):
                self.task = gr.HTML()
            with gr.Column(scale=5, elem_id="cards"):
                self._lay_out_cards()
        self.proposals = gr.HTML(elem_id="proposals")
        with gr.Row():
            self.comment = gr.Textbox(label="Comment, which the others see", lines=1, max_length=MAX_COMMENT)
        with gr.Row(elem_id="actions"):
            self.save = gr.Button("Propose this ranking", variant="primary", elem_id="save")
            self.leave_out = gr.Button("Propose to leave this tuple out", elem_id="leave-out")
            self.back = gr.Button("Back", elem_id="back")
            self.forward = gr.Button("Forward", elem_id="forward")
        self.timer = gr.Timer(REFRESH_SECONDS)

    def _lay_out_cards(self) -> None:
        self.cards: list[gr.Column] = []
        self.images: list[gr.HTML] = []
        self.ranks: list[gr.Radio] = []
        for place in range(self.most):
            with gr.Column(elem_classes=["candidate-card"], visible=False) as card:
                self.images.append(gr.HTML())
                self.ranks.append(numbered_radio(self.most, "Rank, 1 is best", f"rank-{place}"))
            self.cards.append(card)

    def shown(self, page: TuplePage, annotator: str) -> Updates:
        """See `Screen`."""
        assert page.disputed is not None
        mine = next((proposal for proposal in page.proposals if proposal.annotator == annotator), None)
        sources = [f"tuple/{page.place - 1}/source/{number}?{page.images_key}" for number in range(page.sources)]
        key = pages.page_key(page.disputed.tuple_id)
        updates: Updates = {
            self.form: _form(page.disputed),
            self.head: pages.header(self.title, annotator, pages.tuple_status(page)) + key,
            self.notice: pages.notice(page.notice),
            self.task: pages.task(page.instruction, sources),
            self.proposals: pages.proposals(page),
            self.comment: mine.comment if mine else "",
            self.leave_out: gr.update(visible=not page.read_only),
            self.save: gr.update(visible=not page.read_only),
        }
        return updates | self._candidates(page, len(page.disputed.candidates), mine)

    def _candidates(self, page: TuplePage, count: int, mine: Proposal | None) -> Updates:
        """The tuple's candidates with their scores and the rank that the annotator proposes."""
        updates: Updates = {card: gr.update(visible=place < count) for place, card in enumerate(self.cards)}
        for place in range(count):
            table = pages.score_table(page.scores[place], self.protocol)
            url = f"tuple/{page.place - 1}/candidate/{place}?{page.images_key}"
            updates[self.images[place]] = pages.candidate(place, url, table)
            updates[self.ranks[place]] = gr.update(
                choices=number_choices(count),
                value=mine.ranks[place] if mine and mine.ranks else None,
                interactive=not page.read_only,
            )
        return updates

    def current(self, annotator: str, notice: str = "") -> TuplePage:
        """See `Screen`."""
        return self.adjudication.current(annotator, notice)

    # What happens when somebody uses it

    def connect(self, blocks: gr.Blocks) -> None:
        """See `Screen`."""
        everything = [self.form, self.head, self.notice, self.task, self.proposals, *self.cards, *self.images]
        everything += [*self.ranks, self.comment, self.leave_out, self.save]
        form = self.form
        blocks.load(self.on_load, None, everything, **EVENT_OPTIONS)
        self.back.click(self.on_back, form, everything, **EVENT_OPTIONS)
        self.forward.click(self.on_forward, form, everything, **EVENT_OPTIONS)
        self.save.click(self.on_save, [form, self.comment, *self.ranks], everything, **EVENT_OPTIONS)
        self.leave_out.click(self.on_leave_out, [form, self.comment], everything, **EVENT_OPTIONS)
        self.timer.tick(self.on_tick, form, self.proposals, **EVENT_OPTIONS)

    def on_back(self, form: str, request: gr.Request) -> Updates:
        """The tuple before this one is to be shown."""
        return self.answer(request.username, lambda: self.adjudication.show(request.username, self.place(form) - 1))

    def on_forward(self, form: str, request: gr.Request) -> Updates:
        """The tuple after this one is to be shown."""
        return self.answer(request.username, lambda: self.adjudication.show(request.username, self.place(form) + 1))

    def on_save(self, form: str, comment: str, request: gr.Request, *values: int | None) -> Updates:
        """The ranking is proposed."""

        def action() -> TuplePage:
            place = self.place(form)
            page = self.adjudication.show(request.username, place)
            assert page.disputed is not None
            marked = values[: len(page.disputed.candidates)]
            return self.adjudication.propose(request.username, place, marked, comment or "")

        return self.answer(request.username, action)

    def on_leave_out(self, form: str, comment: str, request: gr.Request) -> Updates:
        """It is proposed to leave the tuple out."""

        def action() -> TuplePage:
            return self.adjudication.propose(request.username, self.place(form), None, comment or "")

        return self.answer(request.username, action)

    def on_tick(self, form: str, request: gr.Request) -> str | dict[str, object]:
        """Time to look up the proposals of others."""
        try:
            return pages.proposals(self.adjudication.show(request.username, self.place(form)))
        except (LookupError, UnsavedError):  # told when somebody does something
            return gr.skip()

    def place(self, form: str) -> int:
        """Where the tuple on the page stands. A LookupError if it is not served, or with other candidates."""
        if form not in self.places:
            raise LookupError("Not saved: the tuples are others than when this page was opened.")
        return self.places[form]


def _form(entry: DisputedTuple) -> str:
    """The hidden field of the form: which tuple, of what."""
    return json.dumps([entry.tuple_id, entry.group_id, entry.candidates])
