"""Text of strangers on a terminal and in logs: ids, names, comments, instructions, messages of libraries.

A control character in it could clear the screen, retitle the window or write a line that looks like the program's own.
Each is shown as JSON writes it, such as `\\u001b`.
"""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

# C0, DEL and C1, line and paragraph separators, what turns the direction of writing, halves of surrogate pairs.
_REST = r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_CONTROL = re.compile(rf"[{_REST}\t\n\r]")
_OUT = re.compile(rf"[{_REST}\r]")
# Progress bars return the carriage and go up a line; libraries write in bold.
_ERR = re.compile(rf"(?!\x1b\[\d*(?:;\d+)*[mA])[{_REST}]")


def printable(text: object) -> str:
    """The text in one line, without control characters. For whatever comes out of data, in every message."""
    return _CONTROL.sub(_shown, str(text))


def _shown(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]


class _Stream:
    """A stream that writes no control characters: what holds even where a printer forgot `printable`."""

    def __init__(self, stream: TextIO, refused: re.Pattern[str]) -> None:
        self._stream, self._refused = stream, refused

    def write(self, text: str) -> int:
        self._stream.write(self._refused.sub(_shown, text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def safe_streams(stdout: TextIO, stderr: TextIO) -> Iterator[None]:
    """Have nothing that is printed meanwhile control the terminal, but for progress bars."""
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(_Stream(stdout, _OUT)))
        stack.enter_context(redirect_stderr(_Stream(stderr, _ERR)))
        yield
