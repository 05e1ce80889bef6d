"""The address that counts as one person's, where tries and connections are counted."""

from __future__ import annotations

import ipaddress


def network_of(address: str) -> str:
    """An IPv4 address, or the network of an IPv6 one, of which a host may take any (RFC 6177)."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((found, 64), strict=False))
