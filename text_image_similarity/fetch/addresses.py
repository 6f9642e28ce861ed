"""Check addresses before connecting, with a table of denied ranges.

The table follows IANA's special-purpose address registries for IPv4 and IPv6 (RFC 6890, as of 2025), and its IPv6
address space registry: outside 2000::/3 there are no ordinary unicast addresses. `ipaddress.is_global` is not used,
because its result depends on Python's version and counts some multicast addresses as global. Of the IPv6 addresses that
embed an IPv4 address, only those with NAT64's well-known prefix are allowed, because every IPv4 site has such an
address in IPv6-only networks. The embedded address is checked as usual.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
EVERYWHERE: tuple[IPNetwork, ...] = (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))

_DENIED = {
    "0.0.0.0/8": "the range of unspecified addresses",
    "10.0.0.0/8": "a private network",
    "100.64.0.0/10": "a carrier's shared network (CGNAT)",
    "127.0.0.0/8": "the loopback range",
    "169.254.0.0/16": "a link-local network",
    "172.16.0.0/12": "a private network",
    "192.0.0.0/24": "a range for IETF protocol assignments",
    "192.0.2.0/24": "a range for documentation",
    "192.88.99.0/24": "the deprecated range of 6to4 relays",
    "192.168.0.0/16": "a private network",
    "198.18.0.0/15": "a range for benchmarking",
    "198.51.100.0/24": "a range for documentation",
    "203.0.113.0/24": "a range for documentation",
    "224.0.0.0/4": "the multicast range",
    "255.255.255.255/32": "the broadcast range",
    "240.0.0.0/4": "a reserved range",
    "::/128": "the range of unspecified addresses",
    "::1/128": "the loopback range",
    "::ffff:0:0/96": "the range of IPv4-mapped addresses",
    "::ffff:0:0:0/96": "the deprecated range of IPv4-translated addresses",
    "::/96": "the deprecated range of IPv4-compatible addresses",
    "64:ff9b:1::/48": "the NAT64 range for local use",
    "100::/64": "the discard range",
    "100:0:0:1::/64": "the dummy range",
    "2001::/32": "the Teredo range",
    "2001:2::/48": "a range for benchmarking",
    "2001::/23": "a range for IETF protocol assignments",
    "2001:db8::/32": "a range for documentation",
    "2002::/16": "the deprecated 6to4 range",
    "3fff::/20": "a range for documentation",
    "5f00::/16": "the range for segment routing",
    "fc00::/7": "a private network",
    "fe80::/10": "a link-local network",
    "fec0::/10": "the deprecated range of site-local addresses",
    "ff00::/8": "the multicast range",
}
# Always denied, regardless of settings: at these addresses, the machine or its cloud serves credentials.
_NEVER = {
    "169.254.0.0/16": "a link-local network",
    "fe80::/10": "a link-local network",
    "168.63.129.16/32": "the range of Azure's own services",
    "100.100.100.200/32": "the range of Alibaba Cloud's metadata service",
    "192.0.0.192/32": "the range of Oracle Cloud's metadata service",
    "fd00:ec2::/32": "the range of AWS's metadata and credentials services",
    "fd20:ce::254/128": "the range of Google Cloud's metadata service",
}
_NAT64 = IPv6Network("64:ff9b::/96")
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
_UNICAST = IPv6Network("2000::/3")
_CARRIERS = {"::ffff:0:0/96": 0, "::ffff:0:0:0/96": 0, "::/96": 0, "64:ff9b::/96": 0, "64:ff9b:1::/48": 0,
             "2002::/16": 80, "2001::/32": 64}  # fmt: skip


def why_denied(ip: IPAddress, allowed: Iterable[IPNetwork] = ()) -> str | None:
    """Return the reason why an address is denied, with its range; None if it is allowed.

    Args:
        ip: The address.
        allowed: Networks that are allowed although they are not public; link-local addresses and cloud metadata
            services remain denied.

    Example:
        >>> why_denied(ipaddress.ip_address("10.0.0.7"))
        'in a private network (10.0.0.0/8)'
        >>> why_denied(ipaddress.ip_address("64:ff9b::10.0.0.7"))
        'a form of 10.0.0.7, in a private network (10.0.0.0/8)'
        >>> why_denied(ipaddress.ip_address("8.8.8.8"))
    """
    if isinstance(ip, IPv6Address):
        ip = IPv6Address(int(ip))  # without its zone, because no network contains an address with a zone
        for carried in _carried(ip):
            if reason := why_denied(carried, allowed):
                return f"a form of {carried}, {reason}"
        for carried in _translated(ip):
            if reason := _in_range(carried, never=True):
                return f"a form of {carried}, {reason}"
    if reason := _in_range(ip, never=True):
        return reason
    if any(ip in network for network in allowed):
        return None
    if reason := _in_range(ip, never=False):
        return reason
    if isinstance(ip, IPv6Address) and ip not in _UNICAST and ip not in _NAT64:
        return f"outside the public address space ({_UNICAST})"
    return None


def _in_range(ip: IPAddress, *, never: bool) -> str | None:
    for network, name in _networks(never=never).items():
        if ip in network:
            return f"in {name} ({network})"
    return None


@cache
def _networks(*, never: bool) -> dict[IPNetwork, str]:
    return {ipaddress.ip_network(text): name for text, name in (_NEVER if never else _DENIED).items()}


@cache
def _carriers() -> dict[IPv6Network, int]:
    return {IPv6Network(text): shift for text, shift in _CARRIERS.items()}


def _carried(ip: IPv6Address) -> Iterator[IPv4Address]:
    """Yield the IPv4 addresses embedded in an IPv6 address."""
    bits = int(ip)
    if bits <= 1:  # unspecified and loopback, which embed nothing
        return
    for network, shift in _carriers().items():
        if ip in network:
            yield IPv4Address(bits >> shift & 0xFFFF_FFFF)
    if bits >> 96 == 0x2001_0000:  # Teredo hides the client's address behind its server's, inverted (RFC 4380)
        yield IPv4Address(~bits & 0xFFFF_FFFF)
    if bits >> 32 & 0xFDFF_FFFF == 0x5EFE:  # ISATAP, under any prefix (RFC 5214)
        yield IPv4Address(bits & 0xFFFF_FFFF)


def _translated(ip: IPv6Address) -> Iterator[IPv4Address]:
    """Yield addresses embedded with a NAT64 prefix of 48, 56 or 64 bits (RFC 6052, section 2.2).

    Only the network knows which prefix it uses; the addresses for other lengths are meaningless.
    """
    if ip in _LOCAL_NAT64:
        bits = int(ip)
        for prefix in (48, 56, 64):
            before = 64 - prefix  # bits of the IPv4 address before bits 64 to 71, which are not part of it
            yield IPv4Address(
                (bits >> 64 & (1 << before) - 1) << 32 - before | bits >> 24 + before & (1 << 32 - before) - 1
            )
