"""Checks of the Host and Origin headers of requests.

A malicious web page can make its own host name resolve to this machine (DNS rebinding), and can send a form to any
address without permission. Unknown host names, and forms from other origins, are therefore refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address

from ..problems import ProblemError

_FORM = b"multipart/form-data"


def check_host(host: bytes, allowed: Sequence[str]) -> None:
    """Refuse a request for a host name that is not this service's; IP addresses cannot be rebound, and are allowed.

    Args:
        host: The Host header.
        allowed: Allowed names; `*` means every name, and `*.example.com` every name below `example.com`.

    Raises:
        ProblemError: `unknown_host`.
    """
    if "*" in allowed or not host:
        return
    name = _name_of(host.decode("latin-1"))
    if _is_address(name) or any(_fits(name, each.lower()) for each in allowed):
        return
    raise ProblemError(
        "unknown_host", "the Host header names another host; if that host is this service, add it with --allowed-host"
    )


def check_origin(headers: Mapping[bytes, bytes]) -> None:
    """Refuse requests made by pages of other sites, because browsers send forms and load images without permission.

    Following a link from another site is allowed.

    Raises:
        ProblemError: `forbidden`.
    """
    follows = headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest") == b"document"
    if headers.get(b"sec-fetch-site") == b"cross-site" and not follows:
        raise ProblemError("forbidden", "the request comes from a page of another site")
    if not headers.get(b"content-type", b"").strip().lower().startswith(_FORM):
        return  # a page needs permission to send JSON to another origin, and never gets it here
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site in (b"same-origin", b"none"):
        return
    if site is None and (origin is None or origin.partition(b"://")[2].lower() == headers.get(b"host", b"").lower()):
        return
    raise ProblemError("forbidden", "the request comes from a page with another origin")


def _name_of(host: str) -> str:
    """Return a Host header without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _fits(name: str, allowed: str) -> bool:
    return name.endswith(allowed[1:]) if allowed.startswith("*.") else name == allowed
