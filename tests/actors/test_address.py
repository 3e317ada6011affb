"""Addresses: their form, and where plaintext may go."""

from __future__ import annotations

import pytest

from actors.address import Address, parse_actor
from actors.errors import BadAddress, InsecureAddress


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ws://127.0.0.1:4000", Address(False, "127.0.0.1", 4000)),
        ("wss://julia.example:1", Address(True, "julia.example", 1)),
        ("ws://[::1]:0", Address(False, "::1", 0)),
    ],
)
def test_addresses_are_understood_and_print_as_they_were(text, address):
    assert Address.parse(text) == address
    assert Address.parse(f"{text}/") == address
    assert str(address) == text
    assert parse_actor(f"{text}/counter-1") == (address, "counter-1")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost:4000",
        "http://h:1",
        "ws://h",
        "ws://:1",
        "ws://h:99999",
        "ws://h:x",
        "ws://h:1/a",
        "ws://h:1?q",
        "ws://u@h:1",
        "ws://[::1",
    ],
)
def test_what_is_no_address(text):
    with pytest.raises(BadAddress, match=r"expected|is not an address"):
        Address.parse(text)


@pytest.mark.parametrize("text", ["ws://h:1", "ws://h:1/", "ws://h:1/a/b", "ws://h:1/.a", "ws://h:1/ä", "x/a", "ws://[::1/a"])
def test_what_names_no_actor(text):
    with pytest.raises(BadAddress):
        parse_actor(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_plaintext_on_this_machine(host):
    Address(False, host, 1).check_encryption(allow_plaintext=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "example.org", "localhost.example.org", "::"])
def test_plaintext_elsewhere(host):
    address = Address(False, host, 1)
    with pytest.raises(InsecureAddress):
        address.check_encryption(allow_plaintext=False)
    address.check_encryption(allow_plaintext=True)
    Address(True, host, 1).check_encryption(allow_plaintext=False)


def test_addresses_nobody_can_connect_to():
    assert [Address(False, host, 1).wildcard for host in ("0.0.0.0", "::", "127.0.0.1", "example.org")] == [True, True, False, False]
