"""Keep standard error valid JSON: lines that libraries print there become objects like those of the log.

libtiff, ONNX Runtime, a JVM and the like write to file descriptor 2 directly, past any Python handler. A separate
process reads what libraries write: a thread could not read while the printing library holds the GIL, nor after a crash.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NoReturn, TextIO

from .streams import unwrapped

_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@contextmanager
def relayed_stderr() -> Iterator[TextIO | None]:
    """Yield the real standard error for log lines, while other writes to file descriptor 2 reach it as JSON.

    Yields None and relays nothing if `sys.stderr` has been replaced, and on Windows.
    """
    usual = sys.__stderr__
    if not hasattr(os, "fork") or usual is None or unwrapped(sys.stderr) is not usual or usual.fileno() != 2:
        yield None
        return
    reading, writing = os.pipe()
    real = os.dup(2)
    if (child := os.fork()) == 0:
        if os.fork() == 0:  # forks twice, so that no process has to wait for this one to end
            os.close(writing)
            _relay(reading, real)
        os._exit(0)
    os.waitpid(child, 0)
    os.dup2(writing, 2)
    os.close(writing)
    os.close(reading)
    with os.fdopen(real, "w", encoding="utf-8", errors="backslashreplace", buffering=1) as stream:
        try:
            yield stream
        finally:
            usual.flush()
            os.dup2(real, 2)


def _relay(reading: int, real: int) -> NoReturn:
    """Read lines and write each as a JSON object, until every process that could write a line has ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # a reader of this command's output must not wait for this process
        os.dup2(nothing, standard)
    try:
        with os.fdopen(reading, encoding="utf-8", errors="backslashreplace", newline="\n") as lines:
            for line in lines:
                shown = _COLOURS.sub("", line).rstrip().rpartition("\r")[2]  # only the last state of a progress bar
                if shown.strip():
                    os.write(real, (_as_json(shown) + "\n").encode())
    finally:
        os._exit(0)


def _as_json(line: str) -> str:
    time = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"time": time, "level": "WARNING", "logger": "stderr", "message": line})
