"""A server for the wrappers' contract tests."""

import pytest

from tests.helpers.scorers import ColourScorer
from tests.helpers.server import serving


@pytest.fixture(scope="module")
def server():
    """The address of a server of colours."""
    with serving(ColourScorer()) as url:
        yield url
