"""What a transport's events become in tor's log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.vectors import thorough
from twisted.logger import Logger
from twisted.python.failure import Failure

from txsocksx_ext.pt.logs import LogToParent
from txsocksx_ext.transports.scrubbing import scrub


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("to 192.0.2.1:443, refused", "to [scrubbed], refused"),
        ("192.0.2.1.", "[scrubbed]."),
        ("[2001:db8::1]:443 and ::1", "[scrubbed] and [scrubbed]"),
        ("fe80::1%eth0: no route", "[scrubbed]: no route"),
        ("::ffff:192.0.2.1", "[scrubbed]"),
        ("[192.0.2.1]:443", "[[scrubbed]]:443"),
        ("at 12:30:45 in std::map of version v1.2.3.4", "at 12:30:45 in std::map of version v1.2.3.4"),
        ("key: value", "key: value"),
    ],
)
def test_addresses_are_left_out(text, scrubbed):
    assert scrub(text) == scrubbed


@thorough
@given(st.ip_addresses(), st.integers(0, 0xFFFF), st.sampled_from(["{} x", "({})", "to {}, from", "'{}'", "a={}"]))
def test_every_address_is(address, port, around):
    shown = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    for written in (str(address), shown):
        assert str(address) not in scrub(around.format(written)).replace("[scrubbed]", "")


@pytest.fixture
def lines():
    return []


def test_severities(lines):
    log = Logger(namespace="transport.mine", observer=LogToParent(lines.append))
    for level in ("debug", "info", "warn", "error", "critical"):
        getattr(log, level)("said {what}", what=level)
    assert [(line.severity, line.text) for line in lines] == [
        ("debug", "said debug"),
        ("notice", "said info"),
        ("warning", "said warn"),
        ("error", "said error"),
        ("error", "said critical"),
    ]


@pytest.mark.parametrize("namespace", ["twisted.internet.protocol", "txsocksx_ext.server", "log_legacy"])
def test_libraries_only_warn(lines, namespace):
    log = Logger(namespace=namespace, observer=LogToParent(lines.append))
    log.info("not this")
    log.warn("this")
    assert [line.text for line in lines] == ["this"]


def test_a_failure_is_one_line(lines):
    log = Logger(namespace="transport.mine", observer=LogToParent(lines.append))
    try:
        raise ValueError("at 192.0.2.1")
    except ValueError:
        log.failure("it failed", Failure())
    (line,) = lines
    assert line.severity == "error"
    assert line.text.startswith("it failed | Traceback")
    assert line.text.endswith("ValueError: at [scrubbed]")
    assert "\n" not in line.text
    assert b"\n" not in line.encode()[:-1]


def test_addresses_that_were_asked_for(lines):
    Logger(namespace="mine", observer=LogToParent(lines.append, with_addresses=True)).info("192.0.2.1")
    assert [line.text for line in lines] == ["192.0.2.1"]
