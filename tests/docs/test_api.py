"""docs/api.md is what the docstrings say."""

import pytest

from research import api_docs

pytestmark = pytest.mark.slow


def test_the_page_is_current():
    assert api_docs.PAGE.read_text(encoding="utf-8") == api_docs.page(), "run python research/api_docs.py"


def test_sections_become_lists():
    text = "One line.\n\nArgs:\n    name (`str`): first line\n        and the next.\n    *rest: others."
    assert list(api_docs.as_markdown(text)) == [
        *("One line.", "", "**Args**", "", "- `name`: first line", "  and the next.", "- `*rest`: others.")
    ]


def test_signatures_leave_out_annotations_and_the_instance():
    class Thing:
        def method(self, first: int, *, second: str = "a") -> None: ...

    assert api_docs.signature("Thing.method", Thing.method) == "Thing.method(first, *, second='a')"
