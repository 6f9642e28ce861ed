"""Which Host headers are answered, and which pages' requests.

A page of a stranger can have its own name stand for this machine's address (DNS rebinding), and can send a form to any address
without asking. Names that the service does not know, and forms of other origins, are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address

from ..problems import ProblemError

_FORM = b"multipart/form-data"


def check_host(host: bytes, allowed: Sequence[str]) -> None:
    """Refuse a request for a host name that is not this service's; any address will do, because it cannot be rebound.

    Args:
        host: The Host header.
        allowed: The names; `*` stands for all of them, and `*.example.com` for those below one.

    Raises:
        ProblemError: `unknown_host`.
    """
    if "*" in allowed or not host:
        return
    name = _name_of(host.decode("latin-1"))
    if _is_address(name) or any(_fits(name, each.lower()) for each in allowed):
        return
    raise ProblemError(
        "unknown_host", "the Host header names another host; add it with --allowed-host if it is this one"
    )


def check_origin(headers: Mapping[bytes, bytes]) -> None:
    """Refuse a form that a page of another origin sends: a browser asks nobody before it does.

    Raises:
        ProblemError: `forbidden`.
    """
    if not headers.get(b"content-type", b"").strip().lower().startswith(_FORM):
        return  # which no page can send elsewhere unless it is allowed to, and nobody is
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site in (b"same-origin", b"none"):
        return
    if site is None and (origin is None or origin.partition(b"://")[2].lower() == headers.get(b"host", b"").lower()):
        return
    raise ProblemError("forbidden", "the request comes from a page of another origin")


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
