"""The client of a request, which is identified by its key, or otherwise by its address."""

from __future__ import annotations

from contextvars import ContextVar
from ipaddress import IPv6Address, ip_address

# Client of the current request; None outside of HTTP requests, where work is not divided among clients.
current: ContextVar[str | None] = ContextVar("client", default=None)
SERVICE = "the service"  # the client that is charged for work for all requests together


def peer_name(address: str) -> str:
    """Return the name for a client's address: the address itself, or for IPv6 its 64-bit network.

    Example:
        >>> peer_name("2001:db8:0:1::7"), peer_name("::ffff:192.0.2.1"), peer_name("testclient")
        ('2001:db8:0:1::', '192.0.2.1', 'testclient')
    """
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address[:100]
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(IPv6Address(int(found) >> 64 << 64))
    return str(found)
