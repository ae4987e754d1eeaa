import pytest

from txsocksx_ext.protocol.codes import (
    AddressType,
    Command,
    Dialect,
    Method,
    Status,
    reply_name,
    reply_row,
    reply_rows,
)

RFC_1928 = {
    0x00: "succeeded",
    0x01: "general SOCKS server failure",
    0x02: "connection not allowed by ruleset",
    0x03: "network unreachable",
    0x04: "host unreachable",
    0x05: "connection refused",
    0x06: "TTL expired",
    0x07: "command not supported",
    0x08: "address type not supported",
}
# The proposal says "Hidden Service"; that is called an onion service now.
ONION = {0xE0: "onion service not found", 0xE1: "onion service not reachable"}
TRANSPORTS = {
    0xF0: "temporary pluggable transport failure, retry immediately",
    0xF1: "pluggable transport protocol failure, invalid bridge",
    0xF2: "pluggable transport internal error",
}
# Proposal 304's and tor's manual's words.
TOR = {
    0xF0: "onion service descriptor can not be found",
    0xF1: "onion service descriptor is invalid",
    0xF2: "onion service introduction failed",
    0xF3: "onion service rendezvous failed",
    0xF4: "onion service missing client authorization",
    0xF5: "onion service wrong client authorization",
    0xF6: "onion service invalid address",
    0xF7: "onion service introduction timed out",
}
NAMES = {
    Dialect.PLAIN: {**RFC_1928, **ONION},
    Dialect.PROP229: {**RFC_1928, **ONION, **TRANSPORTS},
    Dialect.TOR: {**RFC_1928, **ONION, **TOR},
}


@pytest.mark.parametrize("dialect", Dialect)
def test_every_reply_code_has_its_name_in_its_dialect(dialect):
    assert {row.number: row.name for row in reply_rows(dialect)} == NAMES[dialect]


@pytest.mark.parametrize("dialect", Dialect)
def test_any_reply_code_prints_with_its_number(dialect):
    for number in range(256):
        name = NAMES[dialect].get(number, "unknown")
        assert reply_name(number, dialect) == f"0x{number:02X} {name}"
        assert (reply_row(number, dialect) is None) == (name == "unknown")


def test_one_number_means_different_things_by_dialect():
    for number in TRANSPORTS:
        assert reply_row(number, Dialect.PROP229) != reply_row(number, Dialect.TOR)
        assert reply_row(number, Dialect.PLAIN) is None


MEMBERS = {
    Method: {0x00: "NO_AUTHENTICATION", 0x01: "GSSAPI", 0x02: "USERNAME_PASSWORD", 0x97: "EXTENDED"}
    | {0xFF: "NO_ACCEPTABLE"},
    Command: {0x01: "CONNECT", 0x02: "BIND", 0x03: "UDP_ASSOCIATE", 0xF0: "RESOLVE", 0xF1: "RESOLVE_PTR"},
    AddressType: {0x00: "NONE", 0x01: "IPV4", 0x03: "DOMAINNAME", 0x04: "IPV6"},
    Status: {0x00: "SUCCESS", 0x01: "AUTHENTICATION_FAILED", 0x02: "INVALID_ARGUMENTS"},
}


@pytest.mark.parametrize("kind", MEMBERS, ids=lambda kind: kind.__name__)
def test_any_byte_is_a_member_and_keeps_its_number(kind):
    for number in range(256):
        member = kind(number)
        assert type(member) is kind
        assert member == number
        assert member.value == number
        assert member.is_known == (number in MEMBERS[kind])
        assert member.name == MEMBERS[kind].get(number, f"0x{number:02X}")
        assert member.name in repr(member)
        assert bytes([member]) == bytes([number])
        assert kind(number) is member


@pytest.mark.parametrize("kind", MEMBERS, ids=lambda kind: kind.__name__)
def test_unknown_numbers_do_not_become_members(kind):
    kind(0x63)
    assert {member.value: member.name for member in kind} == MEMBERS[kind]


def test_what_is_no_byte_is_no_member():
    for kind in MEMBERS:
        for value in (-1, 256, "00", None, 1.5):
            with pytest.raises(ValueError, match="is not a valid"):
                kind(value)
