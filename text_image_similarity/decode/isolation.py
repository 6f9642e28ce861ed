"""The parent's side of isolated decoding: a picture that crashes or hangs the decoder costs its row and nothing else.

Each picture goes to a worker process (`worker`), one at a time, and comes back as pixels. A worker that dies, answers
nonsense or takes too long is killed and replaced. Workers are started as programs of their own and not forked: a fork
copies locks that other threads hold, and `multiprocessing` would run the caller's main module again.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import BoundedSemaphore, Lock, Timer

from PIL import Image

from ..config import Limits
from ..errors import ConfigError, ErrorCode, RowError
from ..system import usable_cores
from .worker import ANSWER, FAILURE, IMAGE, REQUEST

logger = logging.getLogger("text_image_similarity")

_PROGRAM = """
import json, sys
settings = json.loads(sys.argv[1])
sys.path[:] = settings["path"]
from text_image_similarity.decode.worker import serve
serve(settings)
"""
_START_S = 60.0
_NONSENSE = "the decoder process answered nonsense"
_LONGEST_ERROR = 1 << 16
_CLOCK = 3  # times `decode_s` by the clock, so that a busy machine costs no row
_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    # glibc would keep what a large picture took, within a limited address space.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 22),
}


def worker_command(limits: Limits) -> list[str]:
    """Return the command that starts a worker which finds its modules where this process found them."""
    root = str(Path(__file__).parents[2])
    settings = {
        "path": [root, *(str(Path(entry).absolute()) for entry in sys.path)],
        "heif": Image.OPEN["HEIF"][0].__module__.partition(".")[0] if "HEIF" in Image.OPEN else None,
        "max_pixels": limits.max_pixels,
        "max_side": limits.max_side,
        "decode_s": limits.decode_s,
        "decode_memory": limits.decode_memory,
    }
    return [sys.executable, "-I", "-S", "-c", _PROGRAM, json.dumps(settings)]


class IsolatedDecoder:
    """Worker processes that decode, one picture each at a time; safe to share between threads.

    Args:
        limits: Caps on pixels and sides, and what one picture may take: `decode_s` and `decode_memory`.
        workers: Processes at most; None is one a core.
        command: What starts a worker, for tests; None starts the real one.

    Raises:
        ConfigError: Workers cannot be started here.
    """

    def __init__(self, limits: Limits, *, workers: int | None = None, command: Sequence[str] | None = None) -> None:
        self._limits = limits
        self._command = command or worker_command(limits)
        self._places = BoundedSemaphore(workers or usable_cores())
        self._lock = Lock()
        self._idle: list[_Worker] = []
        self._running: set[_Worker] = set()
        self._closed = False
        if find_spec("resource") is None:
            logger.warning("this system has no resource limits: isolated decoders are bound in time, not in memory")
        try:
            self._idle.append(self._start())
        except RowError as error:
            raise ConfigError(f"isolate_decoder=True, but {error.detail}") from error

    def decode(self, data: bytes, *, shorter_side: int | None = None) -> Image.Image:
        """Decode a picture file as `decode` does, in a worker.

        Raises:
            RowError: As `decode`; `decoder_crash` also if the worker died, ran out of memory or took too long.
        """
        with self._places:
            with self._lock:
                worker = self._idle.pop() if self._idle else None
            if worker is None:
                worker = self._start()
            picture = None
            try:
                picture = worker.ask(data, shorter_side or 0)
            finally:
                with self._lock:
                    keep = worker.usable and not self._closed
                    if keep:
                        self._idle.append(worker)
                    else:
                        self._running.discard(worker)
                if not keep:
                    worker.kill()
        return picture

    def close(self) -> None:
        """Kill the workers, also those that are busy: what they decode is wanted no more."""
        with self._lock:
            self._closed = True
            workers, self._running = self._running, set()
            self._idle.clear()
        for worker in workers:
            worker.kill()

    def _start(self) -> _Worker:
        worker = _Worker(self._command, self._limits)
        with self._lock:
            if not self._closed:
                self._running.add(worker)
                return worker
        worker.kill()
        raise RowError(ErrorCode.DECODER_CRASH, "the decoder was closed")


class _Worker:
    """One process. `usable` until it fails to answer."""

    def __init__(self, command: Sequence[str], limits: Limits) -> None:
        self._limits = limits
        self._lock = Lock()
        self._asked = 0  # which request is waited for, so that a clock that comes too late stops no other
        self._late = False
        self.usable = False
        environment = {**os.environ, **_ENVIRONMENT}
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
        except OSError as exc:
            raise RowError(ErrorCode.DECODER_CRASH, f"a decoder process cannot be started: {exc}") from exc
        try:
            self._within(_START_S, b"")
        except RowError:
            self.kill()
            raise

    def ask(self, data: bytes, shorter_side: int) -> Image.Image:
        """Have a picture decoded."""
        kind, size, body = self._within(_CLOCK * self._limits.decode_s, REQUEST.pack(shorter_side, len(data)), data)
        if kind == FAILURE:
            code, _, detail = body.decode("utf-8", "replace").partition(" ")
            if code in set(ErrorCode):
                raise RowError(ErrorCode(code), detail)
        elif kind == IMAGE and len(body) == size[0] * size[1] * 3 > 0:
            return Image.frombytes("RGB", size, body)
        raise self._failure(_NONSENSE)

    def kill(self) -> None:
        """End the process and let go of its pipes."""
        self.usable = False
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # of what was still to be written
                    pipe.close()

    def _within(self, seconds: float, *parts: bytes) -> tuple[bytes, tuple[int, int], bytes]:
        """Send a request and return the answer; the process is killed when the time is over."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        self.usable = False  # until its answer is read to the end: what interrupts that must not leave it to the next
        clock = Timer(seconds, self._overran, (self._asked,))
        clock.daemon = True
        clock.start()
        try:
            for part in parts:
                requests.write(part)
            requests.flush()
            kind, width, height, length = ANSWER.unpack(answers.read(ANSWER.size))
            if length > max(3 * self._limits.max_pixels, _LONGEST_ERROR):
                raise self._failure(_NONSENSE)
            if len(body := answers.read(length)) < length:
                raise self._failure()
            self.usable = True
        except (OSError, ValueError, struct.error) as exc:  # its pipe has ended, or was closed by `kill`
            raise self._failure() from exc
        finally:
            clock.cancel()
            with self._lock:
                self._asked += 1
                self.usable = self.usable and not self._late
        return kind, (width, height), body

    def _overran(self, asked: int) -> None:
        with self._lock:
            if asked == self._asked:
                self._late = True
                self._process.kill()

    def _failure(self, said: str | None = None) -> RowError:
        """Say how the process ended."""
        self.usable = False
        if said is None:
            try:
                code = self._process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                code = 0
            if self._late:
                said = f"the decoder took longer than {_CLOCK * self._limits.decode_s:g} s"
            elif -code == getattr(signal, "SIGXCPU", None):
                said = f"the decoder took more than {self._limits.decode_s:g} s of processor time"
            elif code < 0:
                said = f"the decoder process died of signal {-code} ({signal.strsignal(-code)})"
            else:
                said = f"the decoder process ended with exit code {code}"
        return RowError(ErrorCode.DECODER_CRASH, said)
