"""How a table's run begins, and what it may replace."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Literal, get_args

from ..checks import one_of
from ..errors import ConfigError
from .failures import most_failures

Start = Literal["resume", "restart", "retry_failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOptions:
    """How a table's run begins, and what it may replace.

    Args:
        start: `resume` continues from the finished parts of an earlier run, if there are any; `restart` drops them;
            `retry_failed` takes the finished output and scores the rows again whose failure may have passed.
        force: Whether an output is replaced that was not written by an earlier run of the same command, or was changed since; else it is refused.
        overwrite_column: Whether columns `similarity` and `error` of the input are replaced; else they are refused.
        work_dir: Folder for the parts; None is beside the output, or the user's cache folder for one at a URL.
        max_failures: How many rows may fail before the run ends with a `TooManyFailuresError`: a number, or a share of the rows so
            far, such as `5%`; it is looked at after every part. None for no limit.
        drop_columns: Columns of the input that the output comes without; the column of images or captions may be among them.
        probability: Whether a column `probability` is added, from 0 to 1: how likely each pair matches, where half of all pairs do. It needs
            `score="cosine"` and a calibration.
        calibration: Folder with the `calibration.json` for `probability`; None is that of the model.
        fallback_model: The model to take, with a warning in the log and in the summary, if the one that the run's `Config`
            names is unavailable; None raises then.

    Raises:
        ConfigError: A value is outside its choices, or `drop_columns` is one name instead of a tuple of names.
    """

    start: Start = "resume"
    force: bool = False
    overwrite_column: bool = False
    work_dir: str | PathLike[str] | None = None
    max_failures: int | str | None = None
    drop_columns: tuple[str, ...] = ()
    probability: bool = False
    calibration: str | PathLike[str] | None = None
    fallback_model: str | None = None

    def __post_init__(self) -> None:
        one_of("start", self.start, get_args(Start))
        most_failures(self.max_failures, 0)
        if not isinstance(self.drop_columns, tuple):
            raise ConfigError(f"drop_columns={self.drop_columns!r} must be a tuple of names, such as ('image',)")
        if self.calibration is not None and not self.probability:
            raise ConfigError("a calibration is used only with --probability (probability=True)")
        if self.probability and self.fallback_model is not None:
            raise ConfigError("probability=True is for one model, without a fallback_model")
