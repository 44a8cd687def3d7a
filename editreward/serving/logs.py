"""Logs as one JSON object a line: what was asked and how it went, never an image or an instruction."""

import json
import logging
import sys
import time

LOGGER = logging.getLogger("editreward.serving")


class JsonLines(logging.Formatter):
    """A record with its `fields` as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def log(event: str, level: int = logging.INFO, exception: BaseException | None = None, **fields: object) -> None:
    """Write a line."""
    LOGGER.log(level, event, extra={"fields": fields}, exc_info=exception)


def write_logs(level: str = "info") -> None:
    """Send logs of the server, and uvicorn's, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("editreward.serving", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level.upper())
