"""What the parent knows of each feeder and of each image on its way."""

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
    """An image on its way.

    Args:
        number: Of its order.
        item: Its reference or its file.
        stats: Told how long it took.
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
    """The place of a feeder; one that ends is followed by another."""

    settings: FeederSettings
    number: int
    board: Board
    wake: Condition
    process: FeederProcess | None = None
    under_way: dict[int, Errand] = field(default_factory=dict)
    with_suspect: bool = False
    late: str = ""  # why it was killed
    failed_starts: float = 0.0  # a place stays empty at 1
    seen: list[int] = field(default_factory=list)  # what its board said last, and when each cell changed
    changed: list[float] = field(default_factory=list)

    @property
    def most(self) -> int:
        """Images that it has at a time: enough that no thread waits for the next one."""
        return 2 * self.settings.config.io_workers + 16

    def lateness(self, now: float, plan: FeederPlan) -> str:
        """Say why a feeder is taken to hang: it has shown no sign of life, or been at one image for too long; nothing if all is well."""
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
            return "the feeder process gave no sign of life"
        if any(cell and now - since > plan.patience_s for cell, since in zip(cells[1:], self.changed[1:], strict=True)):
            return f"the decoder took longer than {plan.patience_s:g} s"
        return ""
