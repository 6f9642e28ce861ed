"""Convert the library's errors into problems. Messages of databases, which name paths and hosts, are only logged."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ...errors import DatabaseError, ErrorCode, InputTypeError, ModelError, RowError, UsageError
from ..problems import ProblemError

logger = logging.getLogger("text_image_similarity")


@contextmanager
def translated(catalog: str) -> Iterator[None]:
    """Convert the errors of a catalogue into problems.

    Raises:
        ProblemError: `invalid_request`, `catalog_unavailable` or `model_unavailable`.
    """
    try:
        yield
    except (UsageError, InputTypeError) as exc:
        raise ProblemError("invalid_request", str(exc)) from exc
    except DatabaseError as exc:
        logger.warning("catalogue %s: %s", catalog, exc)
        detail = f"{catalog} cannot be read or written at the moment; see the service's log"
        raise ProblemError("catalog_unavailable", detail, retry_after_s=1) from exc
    except ModelError as exc:
        raise ProblemError("model_unavailable", f"{catalog}: {exc}", retry_after_s=30) from exc


def refused(error: RowError) -> ProblemError:
    """Return the problem for a query whose image or text cannot be encoded."""
    if error.code is ErrorCode.TIMEOUT:
        return ProblemError("busy", error.detail, retry_after_s=1)
    return ProblemError(
        "invalid_request",
        f"{error.code.value}: {error.detail}",
        errors=[{"code": error.code.value, "detail": error.detail}],
    )
