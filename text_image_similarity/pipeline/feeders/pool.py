"""The parent's side of feeders: it sends images to them and returns futures, which complete in any order.

No image is lost when a feeder ends. Images that the feeder had not begun to decode go to another feeder. Images that
the feeder was decoding are suspects: each is loaded again by a feeder that does nothing else, and fails with
`decoder_crash` if such a feeder hangs, or if two of them end.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from threading import Condition, Event, RLock, Thread, current_thread

from ...decode.area import SharedArea
from ...embeddings import Vector
from ...errors import ConfigError, ErrorCode, RowError
from ..rows import LoadedImage
from ..stats import RunStats
from .messages import Delivery, Order
from .plan import FeederPlan
from .process import FeederProcess, feeder_command
from .ring import Board, Ring, board_bytes, stride_of
from .seats import Errand, Seat

logger = logging.getLogger("text_image_similarity")

_AT_ONCE = 16  # orders in a message
_ROOM = 8  # minimum number of orders that a feeder must have room for before it gets any
_DEATHS = 3  # an image becomes a suspect when this many feeders have ended while they had it
_ALONE = (
    2  # a suspect fails when this many feeders have ended while loading only it; not 1: someone may have killed one
)
_FAILED = 1 / 3  # a place stays empty after three consecutive failed starts,
_KILLED = 1 / 12  # or after twelve feeders that someone killed


class Feeders:
    """A pool of processes that load images. Safe to share between threads.

    Args:
        plan: Number and limits of the feeders.
        find: Function that returns the remembered embedding for an image's content key, or None.
        command: Command that starts a feeder, for tests; None is the real one.

    Raises:
        ConfigError: Feeders cannot be started on this machine.
    """

    def __init__(
        self, plan: FeederPlan, find: Callable[[bytes], Vector | None], *, command: list[str] | None = None
    ) -> None:
        self._find, self._command, self._plan = find, command or feeder_command(), plan
        threads = max(settings.config.io_workers for settings in plan.settings)
        begin = board_bytes(len(plan.settings), threads)
        try:
            self._area = SharedArea(begin + stride_of(plan.slot_bytes) * plan.slots)
        except (OSError, ValueError, OverflowError) as exc:
            raise ConfigError(f"no memory can be shared with feeders: {exc}; set feeders=0") from exc
        self.ring = Ring(self._area, begin, plan.slot_bytes, plan.slots)
        shared = [self._area.handle, str(self._area.size), str(threads)]
        self._arguments = [[*shared, str(place), str(plan.slot_bytes)] for place in range(len(plan.settings))]
        self._lock = RLock()
        self._changed = Condition(self._lock)
        self._orders = 0
        self._fresh: deque[Errand] = deque()
        self._suspects: deque[Errand] = deque()
        self._closing = Event()
        self._seats = [
            Seat(settings, place, Board(self._area.memory, threads, place), Condition(self._lock))
            for place, settings in enumerate(plan.settings)
        ]
        self._open = set(range(len(self._seats)))  # places that may get a feeder
        self._problem = ""
        self._threads = [Thread(target=self._watch, name="score-feeders", daemon=True)]
        for seat in self._seats:
            for work in (self._fill, self._hand_out):
                self._threads.append(Thread(target=work, args=(seat,), name=f"score-feeder-{seat.number}", daemon=True))
        for thread in self._threads:
            thread.start()
        with self._changed:
            self._changed.wait_for(lambda: all(self._has_started(seat) for seat in self._seats))
        if not self.usable:
            self.close()
            raise ConfigError(f"feeders={len(self._seats)}, but {self._problem}; set feeders=0")

    @property
    def usable(self) -> bool:
        """Whether there is a feeder or will be one soon."""
        return bool(self._open)

    def pids(self) -> list[int]:
        """Return the ids of the running processes."""
        return [process.pid for seat in self._seats if (process := seat.process) is not None]

    def load(self, item: str | bytes, stats: RunStats) -> Future[LoadedImage | RowError]:
        """Have a feeder load an image, and return a future for it.

        Args:
            item: The image's reference or file.
            stats: Counters that receive the time spent.
        """
        with self._lock:
            self._orders += 1
            errand = Errand(self._orders, item, stats)
            if self._closing.is_set():
                errand.future.cancel()
            elif not self._open:
                errand.future.set_result(RowError(ErrorCode.DECODER_CRASH, self._problem))
            else:
                self._fresh.append(errand)
                self._wake_one()
        return errand.future

    def close(self) -> None:
        """End the processes and drop the images that they are loading."""
        if sys.is_finalizing():  # the threads are dead, and the processes end with their pipes
            return
        with self._lock:
            self._closing.set()
            for seat in self._seats:
                if seat.process is not None:
                    seat.process.kill()
            self._wake_all()
        for thread in self._threads:
            if thread is not current_thread():
                thread.join()
        self._area.close()

    def abandon(self) -> None:
        """End the processes without locking or waiting; for the garbage collector, which may interrupt any thread."""
        self._closing.set()
        for seat in self._seats:
            if (process := seat.process) is not None:
                process.kill()

    def _has_started(self, seat: Seat) -> bool:
        return seat.number not in self._open or (seat.process is not None and seat.process.ready)

    def _fill(self, seat: Seat) -> None:
        """Keep a place filled with a feeder, and receive its messages; runs on its own thread."""
        while not self._closing.is_set() and seat.number in self._open:
            try:
                command = [*self._command, *self._arguments[seat.number]]
                process = FeederProcess(command, self._area.inherited, seat.settings)
            except OSError as exc:
                self._note_end(seat, f"a feeder process cannot be started: {exc}", _FAILED)
                continue
            with self._lock:
                seat.process, seat.late, seat.seen = process, "", []
                if self._closing.is_set():
                    process.kill()
            while (answers := process.receive()) is not None:
                for answer in answers:
                    self._complete(seat, answer)
                with self._lock:
                    if seat.failed_starts or not answers:  # the feeder has just started
                        seat.failed_starts = 0.0
                        self._wake_all()
                    elif self._can_take(seat):
                        seat.wake.notify()
            said = process.finish()
            self._note_end(seat, said, 0 if process.ready else _KILLED if process.killed else _FAILED)
        with self._lock:
            self._wake_all()

    def _wake_one(self) -> None:
        """Wake the feeder with the least work, so that it takes waiting images."""
        if able := [seat for seat in self._seats if self._can_take(seat)]:
            min(able, key=lambda seat: len(seat.under_way)).wake.notify()

    def _wake_all(self) -> None:
        self._changed.notify_all()
        for seat in self._seats:
            seat.wake.notify_all()

    def _hand_out(self, seat: Seat) -> None:
        """Send a feeder its orders; runs on its own thread."""
        while True:
            with self._lock:
                seat.wake.wait_for(lambda: self._closing.is_set() or self._can_take(seat))
                if self._closing.is_set():
                    return
                errands, process = self._taken(seat), seat.process
                self._wake_one()  # for the remaining images
            orders = [self._order(errand) for errand in errands]
            if process is not None and orders:
                process.send(orders)
            # Drop references, which would otherwise stay alive until there is more to load.
            del errands, orders

    def _can_take(self, seat: Seat) -> bool:
        if seat.process is None or not seat.process.ready or seat.with_suspect:
            return False
        if self._suspects and (not seat.under_way or seat.number == min(self._open)):
            return not seat.under_way  # one place is kept free for suspects
        return bool(self._fresh) and len(seat.under_way) <= seat.most - _ROOM

    def _taken(self, seat: Seat) -> list[Errand]:
        """Take a suspect or a few waiting images, and assign free slots in the shared memory to them."""
        source = self._suspects if self._suspects and not seat.under_way else self._fresh
        most = 1 if source is self._suspects else min(_AT_ONCE, seat.most - len(seat.under_way))
        errands: list[Errand] = []
        while source and len(errands) < most:
            errand = source.popleft()
            if not errand.future.running() and not errand.future.set_running_or_notify_cancel():
                continue
            if errand.place is None:
                errand.place = self.ring.take()
            seat.under_way[errand.number] = errand
            errands.append(errand)
        seat.with_suspect = source is self._suspects and bool(errands)
        return errands

    def _order(self, errand: Errand) -> Order:
        item: str | bytes | int = errand.item
        if errand.place is not None and isinstance(item, bytes) and len(item) <= self.ring.slot_bytes:
            self.ring.put(errand.place, item)
            item = len(item)
        return Order(errand.number, errand.place, item)

    def _complete(self, seat: Seat, answer: Delivery) -> None:
        """Complete the future of an image."""
        with self._lock:
            errand = seat.under_way.pop(answer.number, None)
            if errand is None:
                return
            seat.with_suspect = False
        with errand.stats.lock:
            errand.stats.seconds.update(answer.seconds)
        try:
            found = self._found(errand, answer)
        except Exception as exc:  # an exception of an embedding store must not end the run
            found = RowError(ErrorCode.DECODER_CRASH, f"{type(exc).__name__}: {exc}")
        self._give(errand, found)

    def _found(self, errand: Errand, answer: Delivery) -> LoadedImage | RowError:
        if isinstance(answer.found, RowError):
            return answer.found
        if answer.key is not None and (vector := self._find(answer.key)) is not None:
            return LoadedImage(answer.key, vector=vector)
        if not answer.in_slot or errand.place is None:
            return LoadedImage(answer.key, answer.found)
        place, errand.place = errand.place, None
        return LoadedImage(answer.key, self.ring.arrays(place, answer.found))

    def _give(self, errand: Errand, found: LoadedImage | RowError) -> None:
        if errand.place is not None:
            self.ring.give_back(errand.place)
            errand.place = None
        errand.future.set_result(found)

    def _note_end(self, seat: Seat, said: str, failed: float) -> None:
        """Reassign the images of a feeder that ended, and refill its place."""
        with self._lock:
            said = seat.late or said
            decoding = {number for number in seat.board.read()[1:] if number}
            seat.board.clear()
            errands, alone, late = list(seat.under_way.values()), seat.with_suspect, bool(seat.late)
            seat.under_way.clear()
            seat.process, seat.with_suspect = None, False
            if self._closing.is_set():
                self._drop([*errands, *self._fresh, *self._suspects])
                self._fresh.clear()
                self._suspects.clear()
                return
            logger.warning("%s; another feeder process takes over", said)
            lost = [
                errand
                for errand in reversed(errands)
                if not self._is_to_be_tried(errand, alone, late, errand.number in decoding)
            ]
            seat.failed_starts += failed
            if seat.failed_starts > 0.99:
                self._open.discard(seat.number)
                self._problem = said
            if not self._open:
                lost += [*self._fresh, *self._suspects]
                self._fresh.clear()
                self._suspects.clear()
            self._wake_all()
        for errand in lost:
            self._give(errand, RowError(ErrorCode.DECODER_CRASH, said))

    def _is_to_be_tried(self, errand: Errand, alone: bool, late: bool, decoded: bool) -> bool:
        """Requeue an image whose feeder ended, unless the image is to blame; return whether it was requeued."""
        errand.deaths += 1
        errand.alone += alone
        if alone and (late or errand.alone >= _ALONE):
            return False
        if alone or decoded or errand.deaths >= _DEATHS:
            self._suspects.append(errand)
        else:
            self._fresh.appendleft(errand)
        return True

    def _drop(self, errands: list[Errand]) -> None:
        for errand in errands:
            with suppress(InvalidStateError):
                if not errand.future.cancel():
                    errand.future.set_exception(CancelledError())

    def _watch(self) -> None:
        """Kill feeders that hang; runs on its own thread."""
        while not self._closing.wait(min(1.0, self._plan.patience_s / 4)):
            now = time.monotonic()
            for seat in self._seats:
                with self._lock:
                    if seat.process is not None and not seat.late and (late := seat.lateness(now, self._plan)):
                        seat.late = late
                        seat.process.kill()
