"""Lines of tor's control port, as real tor writes them, and as it might."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txsocksx_ext.tor.events import (
    DescriptorEvent,
    StreamEvent,
    bootstrap_progress,
    bootstrap_summary,
    parse_descriptor_event,
    parse_stream_event,
)

SERVICE = "oufiwc7giqrrjlb5zhg7vr3jtqxgbwns5ner577ncb6jxnhh2kvr7kqd"
TAIL = "CLIENT_PROTOCOL=SOCKS5 NYM_EPOCH=0 SESSION_GROUP=-6 ISO_FIELDS=SOCKS_USERNAME,SOCKS_PASSWORD"


def keywords(line):
    return parse_stream_event(line).keywords


def password_in(text):
    return keywords(f"19 NEW 0 a.onion:7 SOCKS_PASSWORD={text} {TAIL}")["SOCKS_PASSWORD"]


# STREAM.


def test_a_new_stream_says_whose_it_is():
    event = parse_stream_event(
        f'25 NEW 0 {SERVICE}.onion:7 SOURCE_ADDR=127.0.0.1:45644 PURPOSE=USER SOCKS_USERNAME="<torS0X>0" {TAIL}'
    )
    assert (event.stream, event.status, event.circuit) == ("25", "NEW", "0")
    assert (event.host, event.port) == (f"{SERVICE}.onion", "7")
    assert event.keywords["SOURCE_ADDR"] == "127.0.0.1:45644"
    assert event.keywords["SOCKS_USERNAME"] == "<torS0X>0"
    assert event.keywords["ISO_FIELDS"] == "SOCKS_USERNAME,SOCKS_PASSWORD"


def test_a_failure_says_its_reason_and_whether_the_far_end_gave_it():
    local = keywords(f"25 FAILED 0 {SERVICE}.onion:7 REASON=RESOLVEFAILED {TAIL}")
    assert local["REASON"] == "RESOLVEFAILED"
    assert "REMOTE_REASON" not in local
    remote = keywords(f"61 FAILED 31 {SERVICE}.onion:4444 REASON=END REMOTE_REASON=DONE {TAIL}")
    assert (remote["REASON"], remote["REMOTE_REASON"]) == ("END", "DONE")


def test_the_reason_that_tor_writes_after_a_space():
    found = keywords(f"9 FAILED 0 a.onion:7 REASON= UNKNOWN_264 {TAIL}")
    assert found["REASON"] == "UNKNOWN_264"
    assert found["CLIENT_PROTOCOL"] == "SOCKS5"


def test_an_empty_value_does_not_swallow_the_next_keyword():
    assert keywords("9 NEW 0 a.onion:7 ISO_FIELDS= NYM_EPOCH=0")["ISO_FIELDS"] == ""
    assert keywords("9 NEW 0 a.onion:7 ISO_FIELDS= NYM_EPOCH=0")["NYM_EPOCH"] == "0"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('"plain"', "plain"),
        ('""', ""),
        ('"with spaces and REASON=MISC"', "with spaces and REASON=MISC"),
        (r'"a\"b\\c"', 'a"b\\c'),
        (r'"\001\177\303\251"', "\x01\x7f\xc3\xa9"),
        (r'"\0019"', "\x019"),
        (r'"\n\r\t"', "\n\r\t"),
        (r'"ends with \\"', "ends with \\"),
        ("unquoted", "unquoted"),
    ],
)
def test_quoted_values(written, meant):
    assert password_in(written) == meant


@given(st.binary(max_size=255))
def test_every_password_comes_back_as_tor_quotes_it(password):
    def quoted(byte):
        if chr(byte) in '"\\':
            return "\\" + chr(byte)
        return chr(byte) if 0x20 <= byte < 0x7F else f"\\{byte:03o}"

    assert password_in('"' + "".join(map(quoted, password)) + '"').encode("latin-1") == password


def test_what_stands_in_quotes_is_never_taken_for_a_keyword():
    found = keywords(f'9 NEW 0 a.onion:7 SOCKS_USERNAME="x SOURCE_ADDR=127.0.0.1:1 REASON=MISC" {TAIL}')
    assert "SOURCE_ADDR" not in found
    assert "REASON" not in found


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("example.com", "443"),
        ("[2001:db8::1]", "80"),
        ("", "0"),
        ("127.0.0.1.$0F0C25408DDA5A337F7A8CCF6745589F2BDC8AF1.exit", "14864"),
    ],
)
def test_targets(host, port):
    event = parse_stream_event(f"1 CLOSED 0 {host}:{port} REASON=TIMEOUT")
    assert (event.host, event.port) == (host, port)


def test_a_source_on_a_unix_socket_is_its_path():
    assert keywords("1 NEW 0 a.onion:7 SOURCE_ADDR=/run/tor/socks:0 PURPOSE=USER")["SOURCE_ADDR"] == "/run/tor/socks:0"


@pytest.mark.parametrize("line", ["", " ", "1", "1 NEW", "1 NEW 0", '"', '1 NEW "0'])
def test_a_line_that_is_too_short_is_no_event(line):
    assert parse_stream_event(line) is None


# HS_DESC.


def test_descriptor_events():
    tail = "NO_AUTH $0F0C25408DDA5A337F7A8CCF6745589F2BDC8AF1~r2 r8gyG7iYlzu6VvQye6Hdw5IaAAJw3ykBkVHgGbx0wL4"
    failed = parse_descriptor_event(f"FAILED {SERVICE} {tail} REASON=NOT_FOUND")
    assert (failed.action, failed.address, failed.reason) == ("FAILED", SERVICE, "NOT_FOUND")
    received = parse_descriptor_event(f"RECEIVED {SERVICE} {tail}")
    assert (received.action, received.address, received.reason) == ("RECEIVED", SERVICE, "")
    assert parse_descriptor_event(f"RECEIVED {SERVICE.upper()} {tail}").address == SERVICE


@pytest.mark.parametrize("line", ["", "FAILED", '"'])
def test_a_line_that_is_too_short_is_no_descriptor_event(line):
    assert parse_descriptor_event(line) is None


# Anything at all.


@given(st.text() | st.text(alphabet='a1 ="\\:0'))
def test_no_line_raises(line):
    assert isinstance(parse_stream_event(line), StreamEvent | None)
    assert isinstance(parse_descriptor_event(line), DescriptorEvent | None)
    assert isinstance(bootstrap_progress(line), int | None)
    assert isinstance(bootstrap_summary(line), str)


@pytest.mark.parametrize("rest", ['X="' + '\\"' * 2000, '"' * 9999, 'X="' * 2000, "\\" * 9999])
def test_quotes_that_never_end_do_not_keep_us(rest):
    # With a pattern that goes back and tries again this would not end.
    assert parse_stream_event(f"1 NEW 0 a.onion:1 {rest}").host == "a.onion"


# STATUS_CLIENT.


def test_the_bootstrap():
    line = 'NOTICE BOOTSTRAP PROGRESS=75 TAG=enough_dirinfo SUMMARY="Loaded enough directory info to build circuits"'
    assert bootstrap_progress(line) == 75
    assert bootstrap_summary(line) == "Loaded enough directory info to build circuits"


def test_what_stands_in_the_way_of_the_bootstrap():
    line = (
        'WARN BOOTSTRAP PROGRESS=5 TAG=conn SUMMARY="Connecting to a relay" WARNING="No route to host"'
        ' REASON=NOROUTE COUNT=1 RECOMMENDATION=ignore HOSTID="0F0C" HOSTADDR="127.0.0.1:14864"'
    )
    assert bootstrap_progress(line) == 5
    assert bootstrap_summary(line) == "Connecting to a relay: No route to host"


@pytest.mark.parametrize(
    "line", ["", "NOTICE CIRCUIT_ESTABLISHED", f'WARN SOCKS_BAD_HOSTNAME HOSTNAME="{SERVICE}.onion"']
)
def test_other_events_of_the_client_are_no_bootstrap(line):
    assert bootstrap_progress(line) is None
    assert bootstrap_summary(line) == ""
