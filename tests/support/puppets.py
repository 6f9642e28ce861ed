"""A decoder's worker process that does what the file says: crash, hang, answer nonsense, or decode to a white dot."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Hashable

import pytest
from PIL import Image

from tests.support.clock import HANG_S
from text_image_similarity import Limits
from text_image_similarity.decode import isolation
from text_image_similarity.decode.deadlines import Deadlines
from text_image_similarity.decode.isolation import IsolatedDecoder
from text_image_similarity.decode.worker import ANSWER, IMAGE, REQUEST

_PROGRAM = f"""
import mmap, os, signal, struct, sys, threading
request, answer = struct.Struct({REQUEST.format!r}), struct.Struct({ANSWER.format!r})
area, out = mmap.mmap(int(sys.argv[1]), int(sys.argv[2])), sys.stdout.buffer
def send(data):
    out.write(data)
    out.flush()
dot = answer.pack({IMAGE!r}, 1, 1, 3)
send(answer.pack({IMAGE!r}, 0, 0, 0))
while head := sys.stdin.buffer.read(request.size):
    data = area[:request.unpack(head)[1]].lstrip(b"\\0")  # files that are not texts
    area[:3] = bytes([255, 255, 255])
    if data == b"crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif data == b"exit":
        sys.exit(3)
    elif data == b"hang":
        threading.Event().wait()
    elif data == b"half":
        send(dot[:-1])
        threading.Event().wait()
    elif data == b"noise":
        send(b"not an answer at all, but long enough to be taken for one")
    elif data == b"claim":
        send(answer.pack({IMAGE!r}, 100, 100, 3))
    elif data == b"endless":
        send(answer.pack({IMAGE!r}, 1, 1, 1 << 60))
    elif data == b"word":
        area[:13] = b"no_such_code!"
        send(answer.pack(b"FAIL", 0, 0, 13))
    elif data == b"deaf":
        os.close(0)
        os.close(1)
        threading.Event().wait()
    else:
        send(dot)
"""

COMMAND = [sys.executable, "-I", "-S", "-c", _PROGRAM]


def let_hangs_end(monkeypatch: pytest.MonkeyPatch, *does: bytes) -> None:
    """Let the time of these files be over at once, and that of others never, whatever their decoder's limit is."""
    asked, ask, start = threading.local(), isolation._Worker.ask, Deadlines.begin

    def note(worker: isolation._Worker, data: bytes, shorter_side: int) -> Image.Image:
        asked.data = data
        try:
            return ask(worker, data, shorter_side)
        finally:
            asked.data = None

    def begin(deadlines: Deadlines, who: Hashable, seconds: float, late: Callable[[], None]) -> None:
        start(deadlines, who, 0.05 if getattr(asked, "data", None) in does else HANG_S, late)

    monkeypatch.setattr(isolation._Worker, "ask", note)
    monkeypatch.setattr(Deadlines, "begin", begin)


def puppets(limits: Limits, workers: int = 1) -> IsolatedDecoder:
    return IsolatedDecoder(limits, workers=workers, command=COMMAND)
