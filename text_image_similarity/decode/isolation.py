"""The parent's side of isolated decoding: an image that crashes or hangs the decoder fails only its own row.

Each image goes to a worker process (`worker`), one at a time, and comes back as pixels, both through shared memory
(`area`); only a few bytes go through pipes. Workers live as long as the decoder. A worker that dies, sends an invalid
response or takes too long is killed and replaced; no other image is lost, because a worker holds one image at a time.
Workers are started as separate programs and not forked: a fork copies locks that other threads hold, and
`multiprocessing` would run the caller's main module again.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import BoundedSemaphore, Lock
from weakref import finalize

from PIL import Image

from ..config import Limits
from ..errors import ConfigError, ErrorCode, RowError
from ..system import usable_cores
from .area import SharedArea
from .deadlines import Deadlines
from .worker import ANSWER, FAILURE, IMAGE, MEMORY_USED, REQUEST

logger = logging.getLogger("text_image_similarity")

_PROGRAM = """
import json, sys
settings = json.loads(sys.argv[1])
sys.path[:] = settings["path"]
from text_image_similarity.decode.worker import serve
serve(settings, *sys.argv[2:])
"""
_START_S = 60.0
_NONSENSE = "the decoder process sent an invalid response"
_CLOCK = 3  # wall-clock limit as a multiple of `decode_s`, so that rows do not fail on a busy machine
WORKER_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    # By default, glibc would keep the memory of a large image within a limited address space. It should keep only the
    # memory of typical images, because allocating that memory again for each of them takes as long as decoding.
    "MALLOC_MMAP_THRESHOLD_": str(1 << 22),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 25),
    "MALLOC_TOP_PAD_": str(1 << 22),
}


def worker_command(limits: Limits) -> list[str]:
    """Return the command that starts a worker with this process's module path; its area's handle and size come last."""
    settings = {
        "path": module_path(),
        "heif": heif_module(),
        "max_pixels": limits.max_pixels,
        "max_side": limits.max_side,
        "decode_s": limits.decode_s,
        "decode_memory": limits.decode_memory,
    }
    return [sys.executable, "-I", "-S", "-c", _PROGRAM, json.dumps(settings)]


def module_path() -> list[str]:
    """Return the module search path for a process that must find the same modules."""
    return [str(Path(__file__).parents[2]), *(str(Path(entry).absolute()) for entry in sys.path)]


def heif_module() -> str | None:
    """Return the module that registered this process's opener for HEIF, if it has one."""
    return Image.OPEN["HEIF"][0].__module__.partition(".")[0] if "HEIF" in Image.OPEN else None


class IsolatedDecoder:
    """A decoder with worker processes, which decode one image each at a time; safe to share between threads.

    Args:
        limits: Limits on pixels and sides, and on the time and memory for one image: `decode_s` and `decode_memory`.
        workers: Maximum number of worker processes; None means one per core.
        command: Command that starts a worker, without its area's handle and size, for tests; None means the real command.

    Raises:
        ConfigError: Workers cannot be started on this machine.
    """

    def __init__(self, limits: Limits, *, workers: int | None = None, command: Sequence[str] | None = None) -> None:
        self._limits = limits
        self._command = command or worker_command(limits)
        self._places = BoundedSemaphore(workers or usable_cores())
        self._lock = Lock()
        self._idle: list[_Worker] = []
        self._running: set[_Worker] = set()
        self._closed = False
        self._deadlines = Deadlines()
        finalize(self, self._deadlines.close)
        if not MEMORY_USED.exists():
            logger.warning("the memory of isolated decoders can be limited on Linux only; here, their time is limited")
        try:
            self._idle.append(self._start())
        except RowError as error:
            raise ConfigError(f"isolate_decoder=True, but {error.detail}") from error

    def decode(self, data: bytes, *, shorter_side: int | None = None) -> Image.Image:
        """Decode an image file as the function `decode` does, but in a worker.

        Raises:
            RowError: As from `decode`; `decoder_crash` also if the worker died, ran out of memory or took too long.
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
        """Kill the workers, even busy ones."""
        with self._lock:
            self._closed = True
            workers, self._running = self._running, set()
            self._idle.clear()
        for worker in workers:
            worker.kill()
        self._deadlines.close()

    def _start(self) -> _Worker:
        worker = _Worker(self._command, self._limits, self._deadlines)
        with self._lock:
            if not self._closed:
                self._running.add(worker)
                return worker
        worker.kill()
        raise RowError(ErrorCode.DECODER_CRASH, "the decoder was closed")


class _Worker:
    """A worker process, which is `usable` until it fails to respond."""

    def __init__(self, command: Sequence[str], limits: Limits, deadlines: Deadlines) -> None:
        self._limits, self._deadlines = limits, deadlines
        self._late = False
        self.usable = False
        try:
            self._area = SharedArea(_area_bytes(limits))
        except (OSError, ValueError, OverflowError) as exc:
            raise RowError(ErrorCode.DECODER_CRASH, f"no memory can be shared with a decoder process: {exc}") from exc
        try:
            self._process = subprocess.Popen(
                [*command, self._area.handle, str(self._area.size)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **WORKER_ENVIRONMENT},
                pass_fds=self._area.inherited,
            )
        except OSError as exc:
            self._area.close()
            raise RowError(ErrorCode.DECODER_CRASH, f"a decoder process cannot be started: {exc}") from exc
        self._area.passed_on()
        try:
            self._within(_START_S)
        except RowError:
            self.kill()
            raise

    def ask(self, data: bytes, shorter_side: int) -> Image.Image:
        """Let the worker decode an image."""
        if len(data) > self._area.size:
            raise RowError(ErrorCode.TOO_MANY_BYTES, f"more than {self._limits.max_bytes:,} bytes")
        self._area.memory[: len(data)] = data
        seconds = _CLOCK * self._limits.decode_s
        kind, size, length = self._within(seconds, REQUEST.pack(shorter_side, len(data)))
        try:
            with memoryview(self._area.memory) as whole, whole[:length] as answer:
                if kind == FAILURE:
                    code, _, detail = bytes(answer).decode("utf-8", "replace").partition(" ")
                    if code in set(ErrorCode):
                        raise RowError(ErrorCode(code), detail)
                elif kind == IMAGE and length == len(answer) == size[0] * size[1] * 3 > 0:
                    return Image.frombytes("RGB", size, answer)
        finally:
            self._area.forget(max(len(data), length))
        raise self._failure(_NONSENSE)

    def kill(self) -> None:
        """End the process, and release its pipes and its area."""
        self.usable = False
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # an error from buffered data that was not yet written
                    pipe.close()
        self._area.close()

    def _within(self, seconds: float, request: bytes = b"") -> tuple[bytes, tuple[int, int], int]:
        """Send a request and return the response; the process is killed when the time is up."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        self.usable = False  # until the response is read completely, which an interruption may prevent
        self._deadlines.begin(self, seconds, self._process.kill)
        broken: Exception | None = None
        answered = False
        try:
            requests.write(request)
            requests.flush()
            kind, width, height, length = ANSWER.unpack(answers.read(ANSWER.size))
            answered = True
        except (OSError, ValueError, struct.error) as exc:  # the pipe ended, or was closed by `kill`
            broken = exc
        finally:
            self._late = not self._deadlines.end(self)
            self.usable = answered and not self._late
        if broken is not None:
            raise self._failure() from broken
        return kind, (width, height), length

    def _failure(self, said: str | None = None) -> RowError:
        """Return the error that says how the process ended."""
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
                said = f"the decoder process was killed by signal {-code} ({signal.strsignal(-code)})"
            else:
                said = f"the decoder process ended with exit code {code}"
        return RowError(ErrorCode.DECODER_CRASH, said)


def _area_bytes(limits: Limits) -> int:
    """Return the size of the memory shared with a worker, which holds first the file and then its pixels in RGB."""
    return max(limits.max_bytes, min(3 * limits.max_pixels, limits.decode_memory), mmap.PAGESIZE)
