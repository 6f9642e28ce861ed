"""The child's side of isolated decoding: a process that decodes images within limits that it cannot raise.

Images and pixels are exchanged at the beginning of shared memory (`area`). A request, through standard input, is
(shorter side or 0, length) for an image file in that memory. A response, through standard output, is (kind, width,
height, length) for the data that replaced it: the pixels in RGB, or the error as "code detail". The only heavy
libraries loaded are Pillow and NumPy. The process ends with its parent, when the pipe ends.
"""

from __future__ import annotations

import math
import mmap
import os
import signal
import struct
import sys
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from PIL import AvifImagePlugin

from ..config import Limits
from ..errors import ErrorCode, RowError
from .area import open_area
from .decode import decode

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

REQUEST = struct.Struct(">IQ")
MEMORY_USED = Path("/proc/self/statm")  # of this process, in pages; on Linux only
ANSWER = struct.Struct(">4sIIQ")
IMAGE, FAILURE = b"RGB\n", b"FAIL"


def serve(settings: dict[str, Any], handle: str, size: str) -> None:
    """Decode the images that the parent requests through standard input, until the input ends.

    Args:
        settings: `max_pixels`, `max_side`, `decode_s` and `decode_memory` of `Limits`; `heif`, the module that
            registers an opener for HEIF, or None.
        handle: Handle of the area that is shared with the parent.
        size: Size of the area in bytes.
    """
    requests, answers = sys.stdin.buffer, begin_process(settings["heif"])
    limits = Limits(**{name: settings[name] for name in ("max_pixels", "max_side", "decode_s", "decode_memory")})
    area = open_area(handle, int(size))
    _limit_memory(limits.decode_memory)
    _send(answers, IMAGE)  # ready
    while len(head := requests.read(REQUEST.size)) == REQUEST.size:
        shorter_side, length = REQUEST.unpack(head)
        _limit_time(limits.decode_s)
        _send(answers, *_answer(area, length, limits, shorter_side or None))


def _answer(
    area: mmap.mmap, length: int, limits: Limits, shorter_side: int | None
) -> tuple[bytes, tuple[int, int], int]:
    """Decode one image, without keeping any of it while waiting for the next one."""
    try:
        image = decode(area[:length], limits, shorter_side=shorter_side)
        size, content = image.size, image.tobytes()
        area[: len(content)] = content
        return IMAGE, size, len(content)
    except RowError as error:
        return _failure(area, error)
    except (MemoryError, ValueError, IndexError):  # raised if the pixels as bytes do not fit in memory or in the area
        return _failure(area, RowError(ErrorCode.DECODER_CRASH, "there is not enough memory for the image's pixels"))


def _failure(area: mmap.mmap, error: RowError) -> tuple[bytes, tuple[int, int], int]:
    said = f"{error.code.value} {error.detail}".encode("utf-8", "replace")[: mmap.PAGESIZE]
    area[: len(said)] = said
    return FAILURE, (0, 0), len(said)


def begin_process(heif: str | None) -> IO[bytes]:
    """Set up a process that decodes for another one, and return the stream for its responses.

    That stream is the original standard output; what libraries print is discarded.

    Args:
        heif: Module that registers an opener for HEIF, or None.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # one process per core is enough, and thread stacks take address space
    if heif:
        import_module(heif).register_heif_opener()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return answers


def _send(answers: IO[bytes], kind: bytes, size: tuple[int, int] = (0, 0), length: int = 0) -> None:
    answers.write(ANSWER.pack(kind, *size, length))
    answers.flush()


def _limit_memory(spare: int) -> None:
    """Limit the address space to the current size plus `spare` bytes, and disable core files."""
    if resource is None:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if MEMORY_USED.exists():
        most = int(MEMORY_USED.read_text().split()[0]) * resource.getpagesize() + spare
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _limit_time(seconds: float) -> None:
    """Have the system end the process (SIGXCPU) if the next image takes more CPU time; the parent watches the clock."""
    if resource is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        soft = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1  # in whole seconds
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))
