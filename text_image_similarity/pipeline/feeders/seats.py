"""The parent's records of each feeder and of each image in transit."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Condition

from ...errors import RowError
from ..rows import LoadedImage
from ..stats import RunStats
from .plan import FeederPlan, FeederSettings
from .process import FeederProcess
from .ring import Board

_START_S = 60.0


@dataclass(slots=True, eq=False)
class Errand:
    """An image in transit.

    Args:
        number: Number of the image's order.
        item: The image's reference or file.
        stats: Counters that receive the time spent.
        future: Future that receives the loaded image or the error.
        place: Offset of the image's slot in the shared memory; None if it has no slot.
        deaths: Number of feeders that have ended while they had the image.
        alone: Number of feeders that have ended while they were loading only this image.
    """

    number: int
    item: str | bytes
    stats: RunStats
    future: Future[LoadedImage | RowError] = field(default_factory=Future)
    place: int | None = None
    deaths: int = 0
    alone: int = 0


@dataclass(slots=True, eq=False)
class Seat:
    """The place of a feeder; when the feeder ends, another one replaces it."""

    settings: FeederSettings
    number: int
    board: Board
    wake: Condition
    process: FeederProcess | None = None
    under_way: dict[int, Errand] = field(default_factory=dict)
    with_suspect: bool = False
    late: str = ""  # reason why it was killed
    failed_starts: float = 0.0  # a place stays empty at 1
    seen: list[int] = field(default_factory=list)  # last state of its board, and the time when each cell changed
    changed: list[float] = field(default_factory=list)

    @property
    def most(self) -> int:
        """Maximum number of images that the feeder has at a time: enough that no thread waits for an image."""
        return 2 * self.settings.config.io_workers + 16

    def lateness(self, now: float, plan: FeederPlan) -> str:
        """Return why a feeder is considered hung (slow start, no sign of life, or stuck); empty if it is not."""
        cells = self.board.read()
        if len(self.seen) != len(cells):
            self.seen, self.changed = cells, [now] * len(cells)
        self.changed = [
            now if cell != old else since for cell, old, since in zip(cells, self.seen, self.changed, strict=True)
        ]
        self.seen = cells
        if self.process is not None and not self.process.ready:
            return (
                f"a feeder process took longer than {_START_S:g} s to start"
                if now - self.process.began > _START_S
                else ""
            )
        if now - self.changed[0] > plan.silence_s:
            return "the feeder process stopped responding"
        if any(cell and now - since > plan.patience_s for cell, since in zip(cells[1:], self.changed[1:], strict=True)):
            return f"the decoder took longer than {plan.patience_s:g} s"
        return ""
