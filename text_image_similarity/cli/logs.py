"""The output on stderr: log lines and the command's final message, as text for people or as JSON for machines.

In JSON, every line is one object with `time` (ISO 8601, UTC), `level`, `logger`, `message`, the extra fields of the log
call, and `exception` if there is one. Wrong options are reported by argparse, in plain text, before logging is set up.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO, get_args

from tqdm import tqdm

from ..errors import printable_lines
from ..files import without_nan

LogFormat = Literal["text", "json"]
LOG_FORMATS = get_args(LogFormat)

logger = logging.getLogger("text_image_similarity")
_OF_EVERY_RECORD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def set_up(log_format: LogFormat, *, quiet: bool = False, stream: TextIO | None = None) -> None:
    """Send this process's log lines to stderr; another call replaces the earlier setup.

    Args:
        log_format: `text`, with the time when stderr is not a terminal, or `json`.
        quiet: Whether to leave out everything below a warning.
        stream: Stream to write to instead of `sys.stderr`.
    """
    handler = _Stderr(stream)
    handler.setFormatter(_Json() if log_format == "json" else _Text(timed=not sys.stderr.isatty()))
    root = logging.getLogger()
    root.handlers[:] = [*(kept for kept in root.handlers if not isinstance(kept, _Stderr)), handler]
    root.setLevel(logging.WARNING)
    logger.setLevel(logging.NOTSET if quiet else logging.INFO)  # INFO explains why a model's first run takes longer
    logging.captureWarnings(log_format == "json")


def tell(log_format: LogFormat, kind: Literal["error", "interrupted"], message: str) -> None:
    """Report why a command ends early: `error: ...`, or the same as a line of JSON."""
    if log_format == "json":
        logger.log(logging.ERROR if kind == "error" else logging.WARNING, message, extra={"kind": kind})
    else:
        sys.stderr.write(f"{kind}: {printable_lines(message)}\n")


class _Stderr(logging.Handler):
    """Writes log lines to a stream, or to the current `sys.stderr`, above a progress bar if there is one."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        stream = self._stream if self._stream is not None and not self._stream.closed else sys.stderr
        try:
            tqdm.write(f"{self.format(record)}\n", file=stream, end="")  # one write, so that lines never mix
            stream.flush()
        except Exception:
            self.handleError(record)


class _Text(logging.Formatter):
    """Formats records as `WARNING: message`, with the time in front if requested."""

    def __init__(self, *, timed: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s: %(message)s" if timed else "%(levelname)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        return _time(record)


class _Json(logging.Formatter):
    """Formats each record as one JSON object on a line."""

    def format(self, record: logging.LogRecord) -> str:
        extra = {name: value for name, value in record.__dict__.items() if name not in _OF_EVERY_RECORD}
        line = extra | {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        ordered = {name: line.pop(name) for name in ("time", "level", "logger", "message")} | line
        return json.dumps(without_nan(ordered), default=str)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
