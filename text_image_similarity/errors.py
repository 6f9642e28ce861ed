"""The exceptions of this package, and the error codes of rows.

TextImageSimilarityError
├── UsageError              the call or the command line is wrong: exit code 2
│   ├── InputTypeError      a value has a type that is not supported
│   └── ConfigError         a setting, or a combination of settings, is not valid
│       └── MissingExtraError   an optional library is not installed
├── ModelError              a model cannot be used: exit code 1
│   ├── ModelUnavailableError   the model cannot be found or downloaded
│   │   └── ModelNameError      no model of a supported kind has this name or is in this folder: exit code 2
│   └── DeviceLostError         the model's device failed: ends a run without failing a row
├── TableError              the job's input or output failed: exit code 1
│   └── BusyError               another run is writing the output: exit code 3
├── StoppedError            a run ended early because it was asked to: exit code 143
├── TooManyFailuresError    a run ended early because more rows failed than were allowed: exit code 4
├── DatabaseError           a database of embeddings cannot be read, written or searched: exit code 1
└── RowError                one row failed: becomes the row's `error`, never ends a run
"""

from __future__ import annotations

from enum import StrEnum


class ErrorCode(StrEnum):
    """The reason why a row has no score; the same codes appear in tables, UDFs, HTTP responses and metrics."""

    INVALID_URL = "invalid_url"
    UNSUPPORTED_SCHEME = "unsupported_scheme"
    BLOCKED_ADDRESS = "blocked_address"
    DNS_ERROR = "dns_error"
    CONNECT_ERROR = "connect_error"
    TLS_ERROR = "tls_error"
    TIMEOUT = "timeout"
    HTTP_4XX = "http_4xx"
    HTTP_429 = "http_429"
    HTTP_5XX = "http_5xx"
    REDIRECT_ERROR = "redirect_error"
    TOO_MANY_BYTES = "too_many_bytes"
    BAD_RESPONSE = "bad_response"
    EMPTY_BODY = "empty_body"
    FILE_NOT_FOUND = "file_not_found"
    NOT_AN_IMAGE = "not_an_image"
    UNSUPPORTED_FORMAT = "unsupported_format"
    TRUNCATED = "truncated"
    CORRUPT = "corrupt"
    TOO_MANY_PIXELS = "too_many_pixels"
    DECODER_CRASH = "decoder_crash"
    EMPTY_CAPTION = "empty_caption"
    NON_FINITE = "non_finite"
    ENCODER_ERROR = "encoder_error"
    DISALLOWED_BY_ORIGIN = "disallowed_by_origin"

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self in _RETRYABLE


_RETRYABLE = frozenset(
    {
        ErrorCode.DNS_ERROR,
        ErrorCode.CONNECT_ERROR,
        ErrorCode.TIMEOUT,
        ErrorCode.HTTP_429,
        ErrorCode.HTTP_5XX,
        ErrorCode.BAD_RESPONSE,
    }
)


class TextImageSimilarityError(Exception):
    """Base class of every exception that this package raises on purpose."""


class UsageError(TextImageSimilarityError):
    """A call, or the command line, is not valid."""


class ConfigError(UsageError, ValueError):
    """A setting, or a combination of settings, is not valid."""


class InputTypeError(UsageError, TypeError):
    """An argument, or an item of one, has a type that is not supported."""

    @classmethod
    def of(cls, name: str, wanted: str, given: object, hint: str = "") -> InputTypeError:
        """Return an error that states what a parameter, or an item such as `records[3]`, must be and what was given."""
        return cls(f"{name} must be {wanted}, not {type_name(given)}{f'; {hint}' if hint else ''}")


class MissingExtraError(ConfigError, ImportError):
    """An optional library is not installed."""


class ModelError(TextImageSimilarityError):
    """A model cannot be used; the message may quote its files, with unprintable characters escaped."""

    def __init__(self, message: str = "") -> None:
        super().__init__(printable_lines(message))


class ModelUnavailableError(ModelError):
    """A model cannot be found on disk or downloaded."""


class ModelNameError(ModelUnavailableError, UsageError):
    """A model's name is misspelt, or the folder that it names contains no model of a supported kind."""


class DeviceLostError(ModelError):
    """A model's device stopped working, and this process can no longer use it."""


class TableError(TextImageSimilarityError):
    """A table cannot be read or written."""


class BusyError(TableError):
    """Another run is writing the same output."""


class StoppedError(TextImageSimilarityError):
    """A run stopped early because it was asked to; finished work is kept."""


class TooManyFailuresError(TextImageSimilarityError):
    """More rows of a table failed than `TableOptions.max_failures` allows; finished parts are kept."""


class DatabaseError(TextImageSimilarityError):
    """A database of embeddings cannot be read, written, or searched with this model."""


class RowError(TextImageSimilarityError):
    """One row cannot be scored.

    Args:
        code: The category of the failure, stable across releases.
        detail: What happened to this row, in words; shortened to one line of at most 300 printable characters.
    """

    def __init__(self, code: ErrorCode, detail: str):
        self.code = code
        line = printable(" ".join(detail[:2000].split()))
        self.detail = line if len(line) <= 300 else line[:296] + " ..."
        super().__init__(code, self.detail)

    def __str__(self) -> str:
        return f"{self.code.value}: {self.detail}"

    def without_address(self) -> RowError:
        """Return the error as it may be shown to people who must not learn what internal names resolve to."""
        return RowError(self.code, "the address is not public") if self.code is ErrorCode.BLOCKED_ADDRESS else self


def printable(text: str) -> str:
    r"""Return a text that is safe on a terminal and valid in UTF-8: unprintable characters are escaped as in Python.

    Example:
        >>> print(printable("a\x1b[2Jb"))
        a\x1b[2Jb
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def printable_lines(text: object) -> str:
    """Return a text in which line breaks are the only characters that can control a terminal.

    Example:
        >>> printable_lines("there is no field\\n\\x1b[2J")
        'there is no field\\n\\\\x1b[2J'
    """
    return "\n".join(map(printable, str(text).split("\n")))


def type_name(value: object) -> str:
    """Return the type of a value in words, such as `a list` or `a torch Tensor of shape (2,) and type ...`."""
    kind = type(value)
    home = kind.__module__.partition(".")[0].lstrip("_")
    if value is None or isinstance(value, bytes):
        return "None" if value is None else "bytes"
    if home == "PIL":
        return "a PIL image"
    name = kind.__qualname__ if home in ("builtins", __name__.partition(".")[0]) else f"{home} {kind.__qualname__}"
    shape = (
        f" of shape {tuple(value.shape)} and type {value.dtype}"
        if hasattr(value, "dtype") and hasattr(value, "shape")
        else ""
    )
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}{shape}"
