"""The proxy of a run, and a hint for cases where a proxy may be missing."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import httpcore
import httpx

# Proxies from the environment are not used: a machine's settings should not decide where requests for images are sent.
_VARIABLES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")


def httpcore_proxy(url: str, ssl_context: Callable[[], ssl.SSLContext]) -> httpcore.Proxy:
    """Return a proxy in httpcore's form.

    Args:
        url: URL of the proxy, as in `Config.proxy`.
        ssl_context: Function that returns the SSL context for an https proxy.
    """
    given = httpx.Proxy(url)
    return httpcore.Proxy(
        url=httpcore.URL(scheme=given.url.raw_scheme, host=given.url.raw_host, port=given.url.port, target=b"/"),
        auth=given.raw_auth,
        ssl_context=ssl_context() if given.url.scheme == "https" else None,
    )


def is_socks(url: str | None) -> bool:
    """Tell whether a proxy uses SOCKS5."""
    return url is not None and url[:5].lower() == "socks"


@contextmanager
def socks_errors() -> Iterator[None]:
    """Convert exceptions of httpcore and socksio for invalid SOCKS replies into proxy errors."""
    from socksio import SOCKSError  # not loaded for other proxies

    try:
        yield
    except (AssertionError, SOCKSError) as exc:
        raise httpx.ProxyError("its reply is not SOCKS5; is it another kind of proxy?") from exc


def explain_unused_proxy(environment: Mapping[str, str] | None = None) -> str:
    """Return a hint for an unreachable host if the environment names a proxy, otherwise ""."""
    found = next((name for name in _VARIABLES if (os.environ if environment is None else environment).get(name)), None)
    return f"; {found} is set but not used: to use a proxy, set --proxy (proxy=...)" if found else ""
