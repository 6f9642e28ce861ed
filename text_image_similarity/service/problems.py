"""Refusals of requests: RFC 9457 problem details, with a stable code for programs."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from math import ceil
from typing import Any, Literal

Reason = Literal["queue_full", "inflight", "body_memory"]  # the resource that was full

CONTENT_TYPE = "application/problem+json"
STATUS = {
    "invalid_json": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "unknown_model": 404,
    "unknown_catalog": 404,
    "unknown_product": 404,
    "unknown_match": 404,
    "method_not_allowed": 405,
    "timeout": 408,
    "conflict": 409,
    "too_many_bytes": 413,
    "unsupported_media_type": 415,
    "unknown_host": 421,
    "invalid_request": 422,
    "queue_full": 429,
    "internal_error": 500,
    "busy": 503,
    "draining": 503,
    "model_unavailable": 503,
    "catalog_unavailable": 503,
    "log_unavailable": 503,
}


class ProblemError(Exception):
    """An error because of which the response is a problem instead of a result.

    Args:
        code: One of `STATUS`.
        detail: What happened and what to do, in words.
        retry_after_s: Seconds until the same request may succeed; sent as a whole number from 1 to 60.
        reason: Resource that was full, as the metrics name it.
        headers: Additional headers of the response.
        members: Additional members of the problem.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        retry_after_s: float | None = None,
        reason: Reason | None = None,
        headers: Mapping[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(code, detail)
        self.code, self.detail, self.members = code, detail, members
        self.retry_after_s, self.reason, self._headers = retry_after_s, reason, headers or {}

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.code]

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the response, without its media type."""
        headers = dict(self._headers)
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(min(max(1, ceil(self.retry_after_s)), 60))
        if self.code == "unauthorized":
            headers["WWW-Authenticate"] = "Bearer"
        return headers

    def body(self, request_id: str) -> Mapping[str, Any]:
        """Return the members of the response."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "request_id": request_id,
            **self.members,
        }


def count_of(count: int, one: str, several: str) -> str:
    """Return a number with its noun and verb, such as `1 pair is` or `2 pairs are`."""
    return f"{count} {one if count == 1 else several}"
