"""Ranges of IP addresses: one way to write each of them, and which of them contain addresses of others."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = rf"({_OCTET}\.){{3}}{_OCTET}/(3[0-2]|[12]?[0-9])"
_IPV6 = "[0-9a-fA-F]*:[0-9a-fA-F:]+/(12[0-8]|1[01][0-9]|[1-9]?[0-9])"
CIDR_PATTERN = f"^({_IPV4}|{_IPV6})$"
"""What a schema can check of a range; `parse_cidr` also refuses host bits and addresses that do not exist."""

CIDR_SHAPE = "must look like 203.0.113.0/24 or 2001:db8::/32"
"""How a range is written."""

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
# IPv6 prefixes under which gateways reach IPv4 addresses: IPv4-mapped and IPv4-compatible addresses (RFC 4291), NAT64
# (RFC 6052) and 6to4 (RFC 3056), with the bit at which the IPv4 address begins.
_EMBEDDINGS = (
    (_MAPPED, 96),
    (ipaddress.IPv6Network("::/96"), 96),
    (ipaddress.IPv6Network("64:ff9b::/96"), 96),
    (ipaddress.IPv6Network("2002::/16"), 16),
)


def parse_cidr(text: str) -> Network:
    """Parse a range of IP addresses that is written as 203.0.113.0/24 or 2001:db8::/32.

    Raises:
        ValueError: for everything else, such as numbers that are octal or hexadecimal, a mask in place of a length,
            bits that are set behind the prefix, and IPv4 addresses that are written as IPv6; the message says how to
            write it.
    """
    address, _, length = text.partition("/")
    if not re.fullmatch(r"[0-9a-fA-F.:]+", address):
        raise ValueError(f"{CIDR_SHAPE}: decimal numbers of IPv4, or hexadecimal ones of IPv6 without a zone")
    if not re.fullmatch(r"0|[1-9][0-9]{0,2}", length):
        raise ValueError(f"{CIDR_SHAPE}: behind the address stands / and the number of bits of the prefix")
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError(f"{CIDR_SHAPE}: {error}") from None
    if isinstance(network, ipaddress.IPv6Network) and "." in address:
        inner = _embedded(network, _MAPPED, 96)
        raise ValueError(
            f"must be written as {inner}, because it is IPv4" if inner else f"{CIDR_SHAPE}: no mixed notation"
        )
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        raise ValueError(f"must be written as {_embedded(network, _MAPPED, 96)}, because it is IPv4")
    if ipaddress.ip_address(address) != network.network_address:
        raise ValueError(
            f"has bits set behind its prefix of {length}: write {network}, or {address} with its full length"
        )
    return network


def _check(text: str) -> str:
    try:
        parse_cidr(text)
    except ValueError as error:
        raise PydanticCustomError("cidr", "{problem}", {"problem": str(error)}) from None
    return text


Cidr = Annotated[str, AfterValidator(_check), Field(max_length=64, json_schema_extra={"pattern": CIDR_PATTERN})]
"""A range of IP addresses such as 203.0.113.0/24 or 2001:db8::/32, without host bits."""


def _embedded(network: ipaddress.IPv6Network, prefix: ipaddress.IPv6Network, bit: int) -> ipaddress.IPv4Network | None:
    """Return the IPv4 range of an IPv6 range within a prefix; None when it is not within the prefix."""
    if not network.subnet_of(prefix):
        return None
    address = int(network.network_address) >> (128 - bit - 32) & 0xFFFFFFFF
    return ipaddress.IPv4Network((address, min(network.prefixlen - bit, 32)), strict=False)


def with_embeddings(networks: Iterable[Network]) -> list[Network]:
    """Return ranges, each followed by the IPv6 ranges under which gateways such as NAT64 reach it when it is IPv4."""
    every: list[Network] = []
    for network in networks:
        every.append(network)
        if isinstance(network, ipaddress.IPv4Network):
            for prefix, bit in _EMBEDDINGS:
                address = int(prefix.network_address) | int(network.network_address) << (128 - bit - 32)
                every.append(ipaddress.IPv6Network((address, bit + network.prefixlen)))
    return every


def is_covered(network: Network, others: Iterable[Network]) -> bool:
    """Return whether other ranges together contain a whole range; 0.0.0.0/1 and 128.0.0.0/1 contain 0.0.0.0/0."""
    return any(_is_within(network, other) for other in _merge(network, others))


def networks_within(network: Network, others: Iterable[Network]) -> list[Network]:
    """Return the parts of a range that belong to other ranges, as few ranges as possible; none for the whole range."""
    return [other for other in _merge(network, others) if _is_within(other, network) and other != network]


def _is_within(inner: Network, outer: Network) -> bool:
    if isinstance(inner, ipaddress.IPv4Network) and isinstance(outer, ipaddress.IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, ipaddress.IPv6Network) and isinstance(outer, ipaddress.IPv6Network):
        return inner.subnet_of(outer)
    return False


def _merge(network: Network, others: Iterable[Network]) -> list[Network]:
    """Return the other ranges of the same IP version, merged where they overlap or continue each other."""
    if isinstance(network, ipaddress.IPv4Network):
        return list(ipaddress.collapse_addresses(other for other in others if isinstance(other, ipaddress.IPv4Network)))
    return list(ipaddress.collapse_addresses(other for other in others if isinstance(other, ipaddress.IPv6Network)))
