"""How far a run is, for the user: a bar in a terminal or a notebook, or a function that is told."""

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
    """Return results, which move a bar as they are read.

    Args:
        results: Those of a run.
        count: How many there will be, or None if that is not known.
        progress: Whether a bar is shown; None shows one in notebooks alone.
    """
    return _beside_bar(results, count) if _is_shown(progress) else results


def _beside_bar(results: Generator[Result], count: int | None) -> Generator[Result]:
    with closing(results), _bar(count, "pairs") as bar:
        for result in results:
            yield result
            bar.update()


@contextmanager
def reported(progress: Progress | bool | None, unit: str) -> Iterator[Progress | None]:
    """Give the function that a table's run tells how far it is, which may move a bar.

    Args:
        progress: That function; or whether a bar is shown; None shows one in notebooks alone.
        unit: What is counted, in the plural.
    """
    if callable(progress):
        yield progress
    elif not _is_shown(progress):
        yield None
    else:
        with _bar(None, unit) as bar:

            def show(done: int, failed: int, total: int) -> None:
                bar.total = total
                bar.set_postfix({"failed": failed} if failed else {}, refresh=False)
                bar.update(done - bar.n)

            yield show


def length_of(items: object) -> int | None:
    """Return how many items there are, or None if that is known only at their end."""
    return len(items) if isinstance(items, Sized) else None


def _is_shown(progress: bool | None) -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel") if progress is None else bool(progress)


def _bar(count: int | None, unit: str) -> Any:
    # That of `auto` is of HTML in notebooks.
    kind: Any = import_module("tqdm.auto" if is_installed("ipywidgets") else "tqdm").tqdm
    return kind(total=count, unit=f" {unit}", dynamic_ncols=True)
