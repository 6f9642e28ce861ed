"""A feeder, which loads the images that are ordered through standard input, and responds through standard output."""

from __future__ import annotations

import mmap
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Event, Thread, local
from typing import IO, Any

from ...decode.area import open_area
from ...decode.worker import begin_process
from ...errors import RowError
from ...fetch import Fetcher
from ...records import image_of, required
from ..pixel_loader import PixelLoader
from ..rows import LoadedImage
from ..stats import RunStats
from .messages import Delivery, Order, receive, send
from .plan import FeederSettings
from .ring import Board, layout_of, put_arrays

BEAT_S = 1.0
GATHER_S = 0.01


def serve(handle: str, size: str, threads: str, place: str, slot_bytes: str) -> None:
    """Load images until standard input ends.

    Args:
        handle: Handle of the memory that is shared with the parent.
        size: Size of that memory in bytes.
        threads: Maximum number of threads of a feeder.
        place: Index of this feeder.
        slot_bytes: Size of an image's slot in bytes.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a signal to the process group is for the parent to handle
    requests = sys.stdin.buffer
    settings: FeederSettings | None = receive(requests)
    if settings is not None:
        answers = begin_process(settings.heif)
        memory = open_area(handle, int(size))
        Feeder(settings, memory, Board(memory, int(threads), int(place)), int(slot_bytes)).run(requests, answers)
    # Exit immediately, because a thread may be in a download that the parent no longer waits for.
    os._exit(0)


class Feeder:
    """The threads of one feeder.

    Args:
        settings: Settings from the parent.
        memory: Memory that is shared with the parent.
        board: Board that shows the parent what this process is doing.
        slot_bytes: Size of an image's slot in bytes.
    """

    def __init__(self, settings: FeederSettings, memory: mmap.mmap, board: Board, slot_bytes: int) -> None:
        self._memory, self._board, self._slot_bytes = memory, board, slot_bytes
        self._orders: SimpleQueue[Order] = SimpleQueue()
        self._answers: SimpleQueue[Delivery] = SimpleQueue()
        self._mine = local()  # a thread's own number, and the number of its order
        self._fetcher = Fetcher(settings.config, share=settings.share)
        self._loader = PixelLoader(
            settings.config,
            settings.preparer,
            settings.fingerprint,
            lambda key: None,  # only the parent has remembered embeddings
            cores=settings.cores,
            decoding=self._decoding,
        )
        self._threads = settings.config.io_workers

    def run(self, requests: IO[bytes], answers: IO[bytes]) -> None:
        """Load images until the input ends."""
        for number in range(self._threads):
            Thread(target=self._work, args=(number,), daemon=True).start()
        Thread(target=self._answer, args=(answers,), daemon=True).start()
        Thread(target=self._beat, args=(os.getppid(),), daemon=True).start()
        send(answers, [])  # ready
        while (orders := receive(requests)) is not None:
            for order in orders:
                self._orders.put(order)
        self._loader.close()

    def _work(self, thread: int) -> None:
        self._mine.thread = thread
        while True:
            order = self._orders.get()
            self._mine.order = order.number
            self._answers.put(self._loaded(order))

    def _loaded(self, order: Order) -> Delivery:
        stats = RunStats()

        def read() -> bytes:
            if isinstance(order.item, int):
                assert order.place is not None
                return self._memory[order.place : order.place + order.item]
            found = required(image_of(order.item))
            with stats.timed("fetch"):
                return found if isinstance(found, bytes) else self._fetcher.fetch(found)

        loaded = self._loader.load(read, stats)
        seconds = {stage: float(spent) for stage, spent in stats.seconds.items()}
        if isinstance(loaded, RowError):  # or a subclass, which may not survive pickling
            return Delivery(order.number, None, RowError(loaded.code, loaded.detail), False, seconds)
        return self._placed(order, loaded, seconds)

    def _placed(self, order: Order, loaded: LoadedImage, seconds: dict[str, float]) -> Delivery:
        """Write pixels into their slot if they fit."""
        layout = None if order.place is None else layout_of(loaded.pixels, self._slot_bytes)
        if layout is None or order.place is None:
            return Delivery(order.number, loaded.key, loaded.pixels, False, seconds)
        put_arrays(self._memory, order.place, loaded.pixels)
        return Delivery(order.number, loaded.key, layout, True, seconds)

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        """Show the parent which image this thread decodes, so that it knows which image to blame for a crash."""
        self._board.begin(self._mine.thread, self._mine.order)
        try:
            yield
        finally:
            self._board.end(self._mine.thread)

    def _answer(self, answers: IO[bytes]) -> None:
        """Send finished images in groups, because each message has a fixed cost for the parent."""
        pause = Event()
        while True:
            ready: list[Any] = [self._answers.get()]
            pause.wait(GATHER_S)
            with suppress(Empty):
                while len(ready) < 64:
                    ready.append(self._answers.get_nowait())
            try:
                send(answers, ready)
            except OSError:  # the parent is gone
                os._exit(0)

    def _beat(self, parent: int) -> None:
        """Show that this process is alive, and end it when the parent ends, even if a fork keeps the pipe open."""
        pause = Event()
        while os.getppid() == parent:
            self._board.beat()
            pause.wait(BEAT_S)
        os._exit(0)
