"""Monitor failures during a run: warn if most rows fail, and raise an error if more fail than allowed."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..config import Config
from ..errors import ConfigError, ErrorCode, TooManyFailuresError, UsageError
from ..fetch import REFUSED
from .task import RowResult

logger = logging.getLogger("text_image_similarity")

_REFUSED = f"{ErrorCode.FILE_NOT_FOUND.value}: {REFUSED}"
_UNREACHABLE = "can this machine reach the internet? If it needs a proxy, set it with --proxy"
_CAUSES = {
    ErrorCode.FILE_NOT_FOUND: "relative paths start from {base_dir}; if the files are elsewhere, name their folder with --base-dir, or allow another folder with --files-under",
    ErrorCode.INVALID_URL: "is {col_url!r} the column of images? To use another column, name it with {opt_url}",
    ErrorCode.UNSUPPORTED_SCHEME: "is {col_url!r} the column of images? To use another column, name it with {opt_url}",
    ErrorCode.EMPTY_CAPTION: "does {col_text!r} contain the captions? To use another column, name it with {opt_text}",
    ErrorCode.DNS_ERROR: _UNREACHABLE,
    ErrorCode.CONNECT_ERROR: _UNREACHABLE,
    ErrorCode.TIMEOUT: "are the hosts slow or unreachable? --timeout and --limit total_s=... allow more time",
    ErrorCode.BLOCKED_ADDRESS: "if the hosts are on your own network, add --limit allow_private_addresses=true",
    ErrorCode.HTTP_4XX: "have the URLs expired, or do they need a login?",
    ErrorCode.HTTP_429: "the hosts ask for fewer requests; lower --io-workers or --limit per_host=...",
    ErrorCode.NOT_AN_IMAGE: "do the references lead to pages about the images, or is {col_url!r} not the column of images?",
    ErrorCode.TOO_MANY_BYTES: "--limit max_bytes=... allows larger files, but not longer captions",
    ErrorCode.TOO_MANY_PIXELS: "--limit max_pixels=... allows larger images",
}


def most_failures(limit: int | str | None, rows: int) -> float:
    """Return how many rows may fail.

    Args:
        limit: A number of rows, or a share such as `5%`; None means no limit.
        rows: Number of rows so far.

    Raises:
        ConfigError: `limit` is neither a number of rows nor a share.

    Example:
        >>> most_failures("5%", 200), most_failures(3, 200)
        (10.0, 3)
    """
    if limit is None:
        return rows
    share = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)%", str(limit), re.ASCII)
    if share and float(share[1]) <= 100:
        return rows * float(share[1]) / 100
    if isinstance(limit, bool) or not re.fullmatch(r"\d{1,15}", str(limit), re.ASCII):
        raise ConfigError(
            f"max_failures={limit!r} must be a number of rows, such as 100, or a share of them, such as 5%"
        )
    return int(limit)


def columns_there(columns: Sequence[str], wanted: tuple[str | None, str | None]) -> tuple[str | None, str | None]:
    """Return the names of columns, with None for those that the table lacks; shards have no column of references."""
    first, second = wanted
    return first if first in columns else None, second if second in columns else None


def explain_failures(
    failures: Mapping[str, int],
    config: Config,
    columns: tuple[str | None, str | None],
    example: str | None = None,
    *,
    options: tuple[str, str] = ("--url-col", "--caption-col"),
) -> str:
    """Return a description of the most frequent failure and its probable cause.

    Args:
        failures: Number of failed rows by error code, at least one.
        config: The settings of the run.
        columns: Columns of references and of captions; None for a column that the table lacks, such as that of
            references in shards.
        example: An error of the most frequent kind, from a row.
        options: Names of the command line's options for the columns.
    """
    code, count = Counter(failures).most_common(1)[0]
    cause = _CAUSES.get(ErrorCode(code), "")
    if (columns[0] is None and "{col_url" in cause) or (columns[1] is None and "{col_text" in cause):
        cause = ""
    if cause == _UNREACHABLE and config.proxy is not None:
        cause = "are the proxy's address, user and password right, and can it reach the hosts?"
    said = cause.format(
        base_dir=config.base_dir, col_url=columns[0], col_text=columns[1], opt_url=options[0], opt_text=options[1]
    )
    first = f", the first of them: {example.partition(': ')[2]}" if example else ""
    return f"{count:,} with {code}{first}" + (f"; {said}" if said else "")


@dataclass(slots=True)
class FailureWatch:
    """Monitors the failures of a run.

    Args:
        config: The settings of the run.
        columns: As for `explain_failures`.
        limit: Number of rows that may fail; see `most_failures`.
        options: As for `explain_failures`.
    """

    config: Config
    columns: tuple[str | None, str | None]
    limit: int | str | None = None
    options: tuple[str, str] = ("--url-col", "--caption-col")
    _warned: bool = False

    def look_at(self, results: Sequence[RowResult]) -> None:
        """Warn, after the first part only, if most of the part's rows failed.

        Raises:
            UsageError: The images of all rows of the part are local files that may not be read.
        """
        if self._warned:
            return
        failures = Counter(result.code.value for result in results if result.code is not None)
        if results and all((result.error or "").startswith(_REFUSED) for result in results):
            rows = f"{len(results):,} rows" if len(results) > 1 else "row"
            raise UsageError(f"no image in the first {rows} may be read: {results[0].error}")
        if 2 * failures.total() > len(results):
            code = failures.most_common(1)[0][0]
            example = next(result.error for result in results if result.code == code)
            said = explain_failures(failures, self.config, self.columns, example, options=self.options)
            logger.warning("%s of the first %s rows failed, %s", f"{failures.total():,}", f"{len(results):,}", said)
        self._warned = True

    def check(self, failures: Mapping[str, int], rows: int) -> None:
        """Raise an error if too many rows have failed so far.

        Raises:
            TooManyFailuresError: More rows failed than allowed.
        """
        failed = sum(failures.values())
        if failed > most_failures(self.limit, rows):
            raise TooManyFailuresError(
                f"{failed:,} of {rows:,} rows failed, more than max_failures={self.limit} allows, "
                f"{explain_failures(failures, self.config, self.columns, options=self.options)}; "
                "finished parts are kept, and the same command with a higher --max-failures resumes from them"
            )
