"""Options for how a run over a table begins, what it replaces and writes, and when it ends early."""

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
    """Options for how a run over a table begins, what it replaces and writes, and when it ends early.

    Args:
        start: `resume` continues from the finished parts of an earlier run, if there are any; `restart` discards them;
            `retry_failed` rescores the rows of a finished output that failed temporarily.
        force: Whether to replace an output that was not written by an earlier run of the same command, or was changed
            afterwards; otherwise this is an error.
        overwrite_column: Whether to replace columns `similarity` and `error` of the input; otherwise they cause an
            error.
        work_dir: Folder for the parts; None means next to the output, or in the user's cache folder if the output is at
            a URL.
        max_failures: Number of rows that may fail before the run ends with a `TooManyFailuresError`, or a share of the
            rows so far, such as `5%`; checked after every part. None means no limit.
        drop_columns: Columns of the input to leave out of the output, which may include those of images and captions.
        probability: Whether to add a column `probability`, 0 to 1: how likely each pair is to match if half of all
            pairs do. It needs `score="cosine"` and a calibration.
        calibration: Folder with the `calibration.json` for `probability`; None means the model's own.
        fallback_model: Model to use if the model of the run's `Config` is unavailable, with a warning in the log and in
            the summary; None raises an error instead.

    Raises:
        ConfigError: A value is not valid, such as a single name for `drop_columns`, or values cannot be combined.
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
