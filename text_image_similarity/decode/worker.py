"""The child's side of isolated decoding: pictures in through a pipe, pixels out, within limits that cannot be raised again.

A request is (shorter side or 0, length) and the file; an answer is (kind, width, height, length) and the pixels in RGB, or
the error as "code detail". Of heavy libraries only Pillow and NumPy are loaded. The process ends with its parent: then
nothing more comes through the pipe.
"""

from __future__ import annotations

import math
import os
import signal
import struct
import sys
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from PIL import AvifImagePlugin

from ..config import Limits
from ..errors import RowError
from .decode import decode

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

REQUEST = struct.Struct(">IQ")
ANSWER = struct.Struct(">4sIIQ")
IMAGE, FAILURE = b"RGB\n", b"FAIL"
_PIPE_BYTES = 1 << 20  # Linux's limit for everybody; a pipe's usual 64 KiB cost a switch between processes each


def serve(settings: dict[str, Any]) -> None:
    """Decode what comes through standard input until it ends.

    Args:
        settings: `max_pixels`, `max_side`, `decode_s` and `decode_memory` of `Limits`; `heif`, the module that registers
            an opener for HEIF, or None.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    requests, answers = sys.stdin.buffer, _own_output()
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # one process a core is enough, and stacks of threads take address space
    if settings["heif"]:
        import_module(settings["heif"]).register_heif_opener()
    limits = Limits(**{name: settings[name] for name in ("max_pixels", "max_side", "decode_s", "decode_memory")})
    _limit_memory(limits.decode_memory)
    _send(answers, IMAGE)  # ready
    while len(head := requests.read(REQUEST.size)) == REQUEST.size:
        shorter_side, length = REQUEST.unpack(head)
        _limit_time(limits.decode_s)
        _answer(answers, requests.read(length), limits, shorter_side or None)


def _answer(answers: IO[bytes], data: bytes, limits: Limits, shorter_side: int | None) -> None:
    """Decode one picture; nothing of it is kept while the next one is waited for."""
    try:
        image = decode(data, limits, shorter_side=shorter_side)
        _send(answers, IMAGE, image.size, image.tobytes())
    except RowError as error:
        _send(answers, FAILURE, body=f"{error.code.value} {error.detail}".encode("utf-8", "replace"))


def _own_output() -> IO[bytes]:
    """Take standard output for answers alone, so that what a library prints does not come between them."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        import fcntl

        fcntl.fcntl(answers.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except (ImportError, AttributeError, OSError):
        pass  # only slower
    return answers


def _send(answers: IO[bytes], kind: bytes, size: tuple[int, int] = (0, 0), body: bytes = b"") -> None:
    answers.write(ANSWER.pack(kind, *size, len(body)))
    answers.write(body)
    answers.flush()


def _limit_memory(spare: int) -> None:
    """Cap the address space at what is taken now and `spare` bytes more; leave no core files."""
    if resource is None:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if statm.exists():
        most = int(statm.read_text().split()[0]) * resource.getpagesize() + spare
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _limit_time(seconds: float) -> None:
    """End the process (SIGXCPU) if the next picture takes more processor time; the parent watches the clock."""
    if resource is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1  # in whole seconds
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))
