"""Ranges of IP addresses: what is refused, and which ranges reach the addresses of others."""

from __future__ import annotations

import ipaddress
import re

import pytest
from pydantic import ValidationError

from rft_api.networks import CIDR_PATTERN, is_covered, networks_within, parse_cidr, with_embeddings
from rft_api.reward_function import Egress
from rft_operator.main import parse_arguments

METADATA = ipaddress.ip_network("169.254.0.0/16")
IMAGES = [f"--{name}-image=x" for name in ("trainer", "reward", "server-cuda", "server-cpu", "loader")]

WRONG = {
    "0251.0376.0251.0376/32": "must look like",
    "010.0.0.0/8": "must look like",
    "2852039166/32": "must look like",
    "0xa9fea9fe/32": "decimal numbers",
    "169.254.43518/32": "must look like",
    "169.254.169.254": "the number of bits",
    "169.254.0.0/255.255.0.0": "the number of bits",
    "169.254.0.0/0.0.255.255": "the number of bits",
    "10.0.0.0/08": "the number of bits",
    "10.0.0.0/33": "must look like",
    "10.0.0.0/-1": "the number of bits",
    "10.0.0.1/8": "write 10.0.0.0/8",
    "2001:db8::1/32": "write 2001:db8::/32",
    "::ffff:169.254.169.254/128": "must be written as 169.254.169.254/32",
    "::ffff:a9fe:a9fe/128": "must be written as 169.254.169.254/32",
    "64:ff9b::169.254.169.254/128": "no mixed notation",
    "fe80::1%eth0/128": "without a zone",
    "\u0661\u0660.0.0.0/8": "decimal numbers",
    "10.0.0.0/8\n": "the number of bits",
    " 10.0.0.0/8": "decimal numbers",
    "example.com/32": "decimal numbers",
    "": "must look like",
}


@pytest.mark.parametrize(("text", "message"), WRONG.items())
def test_a_range_that_is_written_in_another_way_is_refused(text, message):
    with pytest.raises(ValidationError, match=re.escape(message)):
        Egress(cidr=text)


@pytest.mark.parametrize("text", ["0.0.0.0/0", "10.0.0.0/8", "203.0.113.7/32", "::/0", "2001:db8::/32", "FD00::/8"])
def test_a_range_is_taken_as_it_is(text):
    assert Egress(cidr=text).cidr == text
    assert re.search(CIDR_PATTERN, text)


@pytest.mark.parametrize("text", ["0251.0376.0.0/16", "2852039166/32", "::ffff:1.2.3.4/128", "1.2.3.4", "1.2.3.256/32"])
def test_the_schema_refuses_odd_notations_too(text):
    assert not re.search(CIDR_PATTERN, text)


@pytest.mark.parametrize(
    "text", ["10.0.0.1/8:443", "0xa9fea9fe/32:443", "10.0.0.0/8:x", "10.0.0.0/8:0", "10.0.0.0:443"]
)
def test_destinations_of_the_package_index_are_checked_in_the_same_way(text, capsys):
    with pytest.raises(SystemExit):
        parse_arguments([*IMAGES, f"--package-egress={text}"])
    assert repr(text) in capsys.readouterr().err


def test_a_destination_of_the_package_index_may_be_ipv6():
    [egress] = parse_arguments([*IMAGES, "--package-egress=2001:db8::/32:443"]).package_egress
    assert (egress.cidr, egress.port) == ("2001:db8::/32", 443)


@pytest.mark.parametrize("text", ["0.0.0.0/0", "128.0.0.0/1", "169.0.0.0/8", "::/0", "64:ff9b::/96", "2002::/16"])
def test_a_range_that_contains_the_metadata_address_is_told_which_part(text):
    within = networks_within(parse_cidr(text), with_embeddings([METADATA]))
    assert within
    assert all(parse_cidr(text).supernet_of(part) for part in within)


@pytest.mark.parametrize(
    "text",
    [
        "169.254.169.254/32",
        "169.254.0.0/17",
        "169.254.0.0/16",
        "64:ff9b::a9fe:a9fe/128",
        "::a9fe:a9fe/128",
        "2002:a9fe:a9fe::/48",
    ],
)
def test_a_range_that_is_all_metadata_addresses_is_covered(text):
    assert is_covered(parse_cidr(text), with_embeddings([METADATA]))


@pytest.mark.parametrize("text", ["0.0.0.0/1", "169.253.0.0/16", "2001:db8::/32", "fe80::/10", "64:ff9b::/97"])
def test_a_range_beside_the_metadata_address_is_neither(text):
    others = with_embeddings([METADATA])
    assert not is_covered(parse_cidr(text), others)
    assert not networks_within(parse_cidr(text), others)


def test_halves_count_as_the_whole():
    halves = [parse_cidr("0.0.0.0/1"), parse_cidr("128.0.0.0/1")]
    assert is_covered(parse_cidr("0.0.0.0/0"), halves)
    assert not is_covered(parse_cidr("0.0.0.0/0"), halves[:1])
    assert not is_covered(parse_cidr("::/0"), halves)
    assert is_covered(parse_cidr("2001:db8::/32"), [parse_cidr("::/1"), parse_cidr("8000::/1")])
