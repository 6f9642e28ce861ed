"""Connect to the first of several addresses that responds (RFC 8305, "Happy Eyeballs").

Addresses are tried in the resolver's order, alternating between families, a quarter of a second after one another or as
soon as one fails. Connections are made to checked addresses, never to names.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from ipaddress import IPv6Address
from itertools import chain, zip_longest

from .addresses import IPAddress

STAGGER_S = 0.25
_MOST = 10  # maximum number of addresses of a name to try
_LOOK_S = 0.1  # longest time until a closed run is noticed
_UNDER_WAY = (0, errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", errno.EWOULDBLOCK))


def in_turns(addresses: Iterable[IPAddress]) -> list[IPAddress]:
    """Return addresses alternating between families, beginning with the family of the first one."""
    found = list(dict.fromkeys(addresses))
    first = [ip for ip in found if ip.version == found[0].version]
    second = [ip for ip in found if ip.version != found[0].version]
    return [ip for ip in chain.from_iterable(zip_longest(first, second)) if ip is not None]


def dial(addresses: Iterable[IPAddress], port: int, timeout: float, check_open: Callable[[], None]) -> socket.socket:
    """Return a socket that is connected to one of several addresses.

    Args:
        addresses: Addresses, all of which have been checked.
        port: Port to connect to.
        timeout: Seconds for all attempts together.
        check_open: Function that raises an error when the run is closed; called every tenth of a second.

    Raises:
        TimeoutError: No address responded in time.
        OSError: All attempts failed; this is the last error.
    """
    waiting = deque(in_turns(addresses)[:_MOST])
    end, next_at = time.monotonic() + timeout, 0.0
    failure = OSError(errno.EADDRNOTAVAIL, "there is no address")
    attempts: set[socket.socket] = set()
    with selectors.DefaultSelector() as selector:
        try:
            while waiting or attempts:
                check_open()
                now = time.monotonic()
                if now >= end:
                    raise TimeoutError("no address responded in time")
                if waiting and (now >= next_at or not attempts):
                    next_at = now + STAGGER_S
                    try:
                        attempt = _begin(waiting.popleft(), port)
                    except OSError as exc:
                        failure, next_at = exc, now
                        continue
                    attempts.add(attempt)
                    selector.register(attempt, selectors.EVENT_WRITE)
                for key, _ in selector.select(min(end, next_at if waiting else end, now + _LOOK_S) - now):
                    attempt = next(other for other in attempts if other is key.fileobj)
                    selector.unregister(attempt)
                    attempts.remove(attempt)
                    if not (code := attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                        attempt.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        return attempt
                    attempt.close()
                    failure, next_at = OSError(code, os.strerror(code)), now
        finally:
            for attempt in attempts:
                attempt.close()
    raise failure


def _begin(ip: IPAddress, port: int) -> socket.socket:
    """Return a socket that has started connecting to an address."""
    attempt = socket.socket(socket.AF_INET6 if isinstance(ip, IPv6Address) else socket.AF_INET, socket.SOCK_STREAM)
    try:
        attempt.setblocking(False)
        if (code := attempt.connect_ex(_where(ip, port))) not in _UNDER_WAY:
            raise OSError(code, os.strerror(code))
    except BaseException:
        attempt.close()
        raise
    return attempt


def _where(ip: IPAddress, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    if isinstance(ip, IPv6Address) and ip.scope_id:
        zone = ip.scope_id
        return str(ip).partition("%")[0], port, 0, int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
    return str(ip), port
