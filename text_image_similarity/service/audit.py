"""The audit log of refusals and changes, by client, as one JSON object per line, for a SIEM.

A line holds no secrets and no content of requests: no key, caption, URL or image. For each kind of event, the number of
lines is limited for one client and for all clients together. Events beyond these limits are only counted, and so are
events whose lines cannot be written. Lines with the event `left_out` contain these counts, so that the sum over all
lines is complete.

A line is a single write to a file opened for appending, so lines from several processes never mix. A separate thread
writes lines, because a disk may be slow or an NFS server unavailable.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Lock, Thread
from typing import Literal

from ..errors import ErrorCode, RowError, UsageError, printable
from ..files import open_own
from ..records import ScoreResult

logger = logging.getLogger("text_image_similarity")

Event = Literal[
    "service_started",
    "service_stopped",
    "key_refused",
    "access_refused",
    "request_refused",
    "address_blocked",
    "limit_hit",
    "administration",
]

STDERR = "-"
BURST, PER_MINUTE = 20, 20  # lines about one event of one client: in a burst, and per minute after it
BURST_OF_ALL, PER_MINUTE_OF_ALL = 300, 300  # the same for all clients together
LEFT_OUT_EVERY_S = 60.0
MOST_COUNTED = 500  # clients and events that are counted separately
_MOST_WAITING = 1000  # lines
_CLOSING_S = 3.0
_OTHERS = "others"
_FACTS = ("client", "address", "method", "route", "request_id", "status")
_DETAIL, _TEXT = 800, 140  # bytes; a line then has fewer than 4096, which a pipe writes atomically

_Key = tuple[str, str]  # event and client


@dataclass(frozen=True, slots=True)
class Note:
    """An event for the audit log.

    Args:
        event: Kind of event.
        reason: Category of the event, such as `queue_full`.
        detail: What was refused or changed, in words.
        count: Number of occurrences, such as pairs in a request.
    """

    event: Event
    reason: str
    detail: str = ""
    count: int = 1


class AuditLog:
    """Writes notes to a file, or discards them. Safe to share between threads; once open, it never raises and never
    blocks.

    Args:
        place: A file, `-` for stderr, or None for no log.
        clock: Function that returns seconds since the epoch, for tests.
    """

    def __init__(self, place: str | None, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._file = None if place is None else _AppendedFile(place)
        self._lines: Queue[tuple[_Key, int, bytes] | None] = Queue(_MOST_WAITING)
        self._full_at: dict[_Key, float] = {}  # time when each allowance is full again
        self._left_out: dict[_Key, tuple[int, float]] = {}  # counts, and the time since which they are counted
        self._lock = Lock()
        self._thread: Thread | None = None

    def open(self) -> None:
        """Open the file, unless it is already open.

        Raises:
            UsageError: The file cannot be opened.
        """
        if self._file is None or self._thread is not None:
            return
        self._file.open()
        self._thread = Thread(target=self._run, name="audit log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write pending lines and close the file, giving up after a few seconds."""
        if self._file is None or self._thread is None:
            return
        with suppress(Full):  # if the disk does not accept writes
            self._lines.put(None, timeout=_CLOSING_S)
        self._thread.join(_CLOSING_S)
        if not self._thread.is_alive():
            self._file.close()
        self._thread = None

    def record(self, note: Note, client: str = "", **facts: str | int | None) -> None:
        """Queue a line to be written, or count the event.

        Args:
            note: The event.
            client: Client that caused it; the lines of one client are limited together.
            facts: `address`, `method`, `route`, `request_id` and `status`, as far as they are known.
        """
        if self._thread is None:
            return
        client = _cut(client, _TEXT)
        key, now = (note.event, client), self._clock()
        if not self._is_allowed(key, now):
            self._leave_out(key, note.count, now)
            return
        said: dict[str, object] = {"time": _time(now), "event": note.event, "reason": _cut(note.reason, _TEXT)}
        said |= {"detail": _cut(note.detail, _DETAIL), "count": note.count}
        given = {"client": client, **facts}
        values = {name: given.get(name) for name in _FACTS}
        said |= {
            name: _cut(value, _TEXT) or None if isinstance(value, str) else value for name, value in values.items()
        }
        try:
            self._lines.put_nowait((key, note.count, _line(said)))
        except Full:
            self._leave_out(key, note.count, now)

    def _is_allowed(self, key: _Key, now: float) -> bool:
        """Tell whether another line may be written, and count that line."""
        event, _ = key
        with self._lock:
            if len(self._full_at) > 2 * MOST_COUNTED:
                self._full_at = {known: at for known, at in self._full_at.items() if at > now}
                if len(self._full_at) > 2 * MOST_COUNTED:
                    key = (event, _OTHERS)
            limits = ((key, BURST, PER_MINUTE), ((event, ""), BURST_OF_ALL, PER_MINUTE_OF_ALL))
            ends = {each: max(now, self._full_at.get(each, 0.0)) + 60 / rate for each, _, rate in limits}
            if any(ends[each] - now > burst * 60 / rate + 1e-3 for each, burst, rate in limits):
                return False
            self._full_at |= ends
            return True

    def _leave_out(self, key: _Key, count: int, since: float) -> None:
        with self._lock:
            if key not in self._left_out and len(self._left_out) >= MOST_COUNTED:
                key = (key[0], _OTHERS)
            known, began = self._left_out.get(key, (0, since))
            self._left_out[key] = (known + count, min(began, since))

    def _run(self) -> None:
        due = time.monotonic() + LEFT_OUT_EVERY_S
        going = True
        while going:
            with suppress(Empty):
                found = self._lines.get(timeout=max(0.0, due - time.monotonic()))
                going = found is not None
                if found is not None and not self._append(found[2]):
                    self._leave_out(*found[:2], self._clock())
            if not going or time.monotonic() >= due:
                self._write_left_out()
                due = time.monotonic() + LEFT_OUT_EVERY_S

    def _write_left_out(self) -> None:
        """Write how many events of each kind and client were left out."""
        with self._lock:
            counts, self._left_out = self._left_out, {}
        now = self._clock()
        for key, (count, since) in counts.items():
            event, client = key
            said = {"time": _time(now), "event": "left_out", "reason": event, "detail": f"since {_time(since)}"}
            if not self._append(_line({**said, "count": count, **dict.fromkeys(_FACTS), "client": client or None})):
                self._leave_out(key, count, since)

    def _append(self, line: bytes) -> bool:
        assert self._file is not None
        return self._file.append(line)


class _AppendedFile:
    """A file to which lines are appended, or stderr. If the file is moved, as logrotate does, a new one is created."""

    def __init__(self, place: str) -> None:
        self._path = None if place == STDERR else Path(place).absolute()
        self._number = 2  # file descriptor of the open file; 2 is stderr
        self._opened: ExitStack | None = None
        self._broken = False  # the file ends with an incomplete line
        self._failing = False

    def open(self) -> None:
        """Open the file.

        Raises:
            UsageError: The file cannot be opened.
        """
        if self._path is None:
            return
        hint = f"give another file, or {STDERR} for stderr"
        if self._path.exists() and not self._path.is_file():
            raise UsageError(f"the audit log {self._path} is not a file; {hint}")
        try:
            self._open(self._path)
        except OSError as exc:
            said = "it is a link, which is not followed" if self._path.is_symlink() else exc.strerror or exc
            raise UsageError(f"the audit log {self._path} cannot be opened: {said}; {hint}") from exc

    def append(self, line: bytes) -> bool:
        """Write a line atomically; return whether it could be written."""
        whole = b"\n" + line if self._broken else line
        try:
            self._follow()
            self._broken = os.write(self._number, whole) < len(whole)
            if self._broken:
                raise OSError("the disk is full")
        except OSError as exc:
            if not self._failing:
                logger.error(
                    "the audit log cannot be written: %s; until it can, events are only counted", exc.strerror or exc
                )
            self._failing = True
            return False
        if self._failing:
            logger.warning("the audit log can be written again")
        self._failing = False
        return True

    def close(self) -> None:
        """Close the file."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _open(self, path: Path) -> None:
        with ExitStack() as opened:
            file = opened.enter_context(open_own(path, "a", access=0o666))
            self.close()
            self._number, self._opened = file.fileno(), opened.pop_all()

    def _follow(self) -> None:
        """Reopen the file if its path now names another file or no file."""
        if self._path is None:
            return
        ours = os.fstat(self._number)
        try:
            there = self._path.lstat()
        except FileNotFoundError:
            self._open(self._path)
            return
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino) and stat.S_ISREG(there.st_mode):
            self._open(self._path)


def _cut(text: str, most: int) -> str:
    """Return the printable beginning of a text, of at most `most` bytes."""
    whole = printable(text[:most]).encode()
    return whole[:most].decode(errors="ignore")


def _line(said: dict[str, object]) -> bytes:
    return json.dumps(said, ensure_ascii=False).encode() + b"\n"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_blocked(result: object) -> bool:
    """Tell whether a result is the refusal of an address by the fetch guard."""
    return isinstance(result, (ScoreResult, RowError)) and result.code is ErrorCode.BLOCKED_ADDRESS
