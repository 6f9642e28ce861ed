"""How a table's run begins, and what it may replace."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Literal, get_args

from ..config import one_of

Start = Literal["resume", "restart", "retry_failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions:
    """How a table's run begins, and what it may replace.

    Args:
        start: `resume` goes on from the finished parts of an earlier run, if there are any; `restart` drops them;
            `retry_failed` takes the finished output and scores the rows again whose failure may have passed.
        overwrite_column: Whether columns `similarity` and `error` of the input are replaced; else they are refused.
        work_dir: Folder for the parts; None is beside the output, or the user's cache folder for one at a URL.
        fallback_model: The model to take, with a warning in the log and in the summary, if the one that the run's `Config`
            names is unavailable; None raises then.

    Raises:
        ConfigError: `start` is not one of the choices.
    """

    start: Start = "resume"
    overwrite_column: bool = False
    work_dir: str | PathLike[str] | None = None
    fallback_model: str | None = None

    def __post_init__(self) -> None:
        one_of("start", self.start, get_args(Start))
