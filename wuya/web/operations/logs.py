"""Logs as JSON lines on stderr: what happened, never what was said. No queries, no keys."""

import json
import logging
import re
import sys
import time
import traceback

SECRETS = re.compile(r"\b(sk-[A-Za-z0-9]{2,8})[A-Za-z0-9_-]{8,}|(Bearer\s+)\S+|(#)[A-Za-z0-9_-]{40,}")
FIELDS = ("request_id", "method", "route", "status", "ms", "model", "job", "code")
"""What a record may carry besides its message."""


def redact(text: str) -> str:
    """The text without API keys and link secrets."""
    return SECRETS.sub(lambda match: next(g for g in match.groups() if g) + "[hidden]", text)


class JsonFormatter(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, logger, message and the known fields."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        row: dict[str, object] = {"at": at, "level": record.levelname.lower(), "logger": record.name}
        row["message"] = redact(record.getMessage())
        row |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info and record.exc_info[0]:
            frames = traceback.extract_tb(record.exc_info[2])
            row["error"] = record.exc_info[0].__name__  # not its text: it may quote what somebody wrote
            row["trace"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-12:]]
        return json.dumps(row, ensure_ascii=False)


def set_up_logs(level: str = "info") -> None:
    """Send the service's and uvicorn's logs to stderr as JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("wuya", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(level.upper())
    logging.getLogger("uvicorn.access").disabled = True  # its lines hold queries
