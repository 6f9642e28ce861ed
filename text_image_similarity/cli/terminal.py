"""What every command shows: a progress bar and tables of names and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from tqdm import tqdm


class ProgressBar:
    """A bar with rate and failures; it appears once the model is loaded, so that its rate is the run's.

    Args:
        unit: What is counted: pairs, pictures.
    """

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._bar: tqdm[NoReturn] | None = None

    def show(self, done: int, failed: int, total: int) -> None:
        """Move the bar to where the work is."""
        bar = self._bar = self._bar or tqdm(total=total, unit=f" {self._unit}", dynamic_ncols=True)
        bar.set_postfix(failed=failed, refresh=False)
        bar.update(done - bar.n)

    def close(self) -> None:
        """Leave the bar as it is and start a new line."""
        if self._bar is not None:
            self._bar.close()


def lay_out(lines: Sequence[tuple[str, object]]) -> str:
    """Lay out names and values in two columns."""
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)
