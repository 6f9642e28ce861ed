"""Fetch references as bytes. Only this package opens what a reference points to.

A reference is an http(s) URL, a path, a `file:` URL or a `data:` URL. All `Limits` are enforced while bytes arrive.
Tests and dry runs inject a transport: `Fetcher(config, transport=httpx.MockTransport(handler))` never opens a socket.
"""

from __future__ import annotations

from .fetcher import Fetcher, check_files
from .hints import is_base64_image
from .pieces import are_too_small
from .references import http_url, scheme_of, strip_invisible
from .responses import explain_proxy, read_response, retry_after_s, user_agent
from .roots import REFUSED, check_no_share, check_under, is_under, local_path, locate, resolve_reference
from .stream import row_deadline
from .transport import GuardedTransport

__all__ = [
    "REFUSED",
    "Fetcher",
    "GuardedTransport",
    "are_too_small",
    "check_files",
    "check_no_share",
    "check_under",
    "explain_proxy",
    "http_url",
    "is_base64_image",
    "is_under",
    "local_path",
    "locate",
    "read_response",
    "resolve_reference",
    "retry_after_s",
    "row_deadline",
    "scheme_of",
    "strip_invisible",
    "user_agent",
]
