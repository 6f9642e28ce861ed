"""Output that all commands share: a progress bar on a terminal or a heartbeat in the log, and tables of values."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from tqdm import tqdm

from ..errors import printable, printable_lines

logger = logging.getLogger("text_image_similarity")


class ProgressBar:
    """A progress bar with rate and failures on a terminal, or an occasional line in the log.

    The bar starts at the first call of `show`, once the model is loaded. Rows that were finished earlier do not count
    towards the rate.

    Args:
        unit: The unit of work, such as pairs or images.
        heartbeat_s: Seconds between two log lines; 0 disables them.
        bar: Whether to draw a bar instead of logging.
        clock: Function that returns seconds; tests pass their own.
    """

    def __init__(
        self,
        unit: str,
        *,
        bar: bool,
        heartbeat_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._unit = unit
        self._bar: tqdm[NoReturn] | None = None
        self._failed = -1  # number of failures that the bar shows
        self._heartbeat = None if bar else Heartbeat(unit, heartbeat_s, clock)

    def show(self, done: int, failed: int, total: int) -> None:
        """Show the progress of the work."""
        if self._heartbeat is not None:
            self._heartbeat.beat(done, failed, total)
            return
        if self._bar is None:
            self._bar = tqdm(total=total, initial=done, unit=f" {self._unit}", dynamic_ncols=True)
        self._bar.total = total  # the total grows while files are counted one by one
        if failed != self._failed:  # formatting takes longer than counting a row
            self._bar.set_postfix(failed=failed, refresh=False)
            self._failed = failed
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it is and start a new line."""
        if self._bar is not None:
            self._bar.close()


class Heartbeat:
    """Logs the progress of a run, at most once every `every_s` seconds.

    Args:
        unit: The unit of work, such as pairs or images.
        every_s: Seconds between two lines; 0 disables them.
        clock: Function that returns seconds; tests pass their own.
    """

    def __init__(self, unit: str, every_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._unit, self._every, self._clock = unit, every_s, clock
        self._began: float | None = None
        self._due = 0.0
        self._first = 0

    def beat(self, done: int, failed: int | None, total: int) -> None:
        """Record progress; the first call sets the starting point. `failed` is None if no item can fail by itself."""
        if not self._every:
            return
        now = self._clock()
        if self._began is None:
            self._began, self._due, self._first = now, now + self._every, done
        elif now >= self._due:
            self._due = now + self._every
            rate = (done - self._first) / (now - self._began)
            left = max(0, total - done) / rate if rate else None
            failures = "" if failed is None else f" {failed:,} failed,"
            logger.info(
                "%s of %s %s,%s %s %s/s, %s",
                *(f"{done:,}", f"{total:,}", self._unit, failures, f"{rate:,.1f}", self._unit, _left(left)),
                extra={
                    "unit": self._unit,
                    "done": done,
                    "failed": failed,
                    "total": total,
                    "per_second": round(rate, 2),
                    "seconds_left": None if left is None else round(left),
                },
            )


def _left(seconds: float | None) -> str:
    if seconds is None:
        return "time left unknown"
    if seconds < 59.5:
        return f"{seconds:.0f} s left"
    minutes = round(seconds / 60)
    return f"{minutes} min left" if minutes < 120 else f"{minutes // 60:,} h {minutes % 60} min left"


def shown(value: object, most: int) -> str:
    """Return a value on one line of at most `most` characters, without any that could control a terminal."""
    text = "".join(character if character.isprintable() else " " for character in str(value)[: 4 * most])
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def lay_out_table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0) -> str:
    """Lay out rows under their heads; the first `numbers` columns are right-aligned."""
    lines = [[printable(cell) for cell in line] for line in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if place < numbers else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def lay_out(lines: Sequence[tuple[str, object]]) -> str:
    """Lay out names and values in two columns."""
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{printable(name):<{width}}  {printable_lines(value)}" for name, value in lines)
