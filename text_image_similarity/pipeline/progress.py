"""Progress of a run: a bar in a terminal or a notebook, or a callback."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator, Sized
from contextlib import closing, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from ..records import Progress
from ..system import is_installed

if TYPE_CHECKING:
    from ..records import ScoreResult

Result = TypeVar("Result", bound="ScoreResult")


def watched(results: Generator[Result], count: int | None, *, progress: bool | None) -> Generator[Result]:
    """Return results that advance a progress bar as they are read.

    Args:
        results: Results of a run.
        count: Number of results, or None if it is not known.
        progress: Whether to show a bar; None shows one only in notebooks.
    """
    return _beside_bar(results, count) if _is_shown(progress) else results


def _beside_bar(results: Generator[Result], count: int | None) -> Generator[Result]:
    with closing(results), _bar(count, "pairs") as bar:
        for result in results:
            yield result
            bar.update()


@contextmanager
def reported(progress: Progress | bool | None, unit: str) -> Iterator[Progress | None]:
    """Yield the progress callback for a run over a table; it may advance a bar.

    Args:
        progress: The callback itself, or whether to show a bar; None shows one only in notebooks.
        unit: Name of the unit of work, in the plural.
    """
    if callable(progress):
        yield progress
    elif not _is_shown(progress):
        yield None
    else:
        with _bar(None, unit) as bar:
            shown = 0

            def show(done: int, failed: int, total: int) -> None:
                nonlocal shown
                bar.total = total
                if failed != shown:  # formatting takes longer than counting a row
                    bar.set_postfix({"failed": failed}, refresh=False)
                    shown = failed
                bar.update(done - bar.n)

            yield show


def length_of(items: object) -> int | None:
    """Return the number of items, or None if it is known only once they have all been read."""
    return len(items) if isinstance(items, Sized) else None


def _is_shown(progress: bool | None) -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel") if progress is None else bool(progress)


def _bar(count: int | None, unit: str) -> Any:
    # The bar of `tqdm.auto` is HTML in notebooks.
    kind: Any = import_module("tqdm.auto" if is_installed("ipywidgets") else "tqdm").tqdm
    return kind(total=count, unit=f" {unit}", dynamic_ncols=True)
