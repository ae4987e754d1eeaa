"""What a managed transport says to its parent: every line, both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txsocksx_ext.transports.lines import Keyword, Line, parse_line


def cmethod(name="a", protocol="socks5", host="127.0.0.1", port=1):
    return Line(Keyword.CMETHOD, name=name, protocol=protocol, address=(host, port))


def smethod(name="a", host="127.0.0.1", port=1, arguments=()):
    return Line(Keyword.SMETHOD, name=name, address=(host, port), fields=arguments)


def log(severity, message):
    return Line(Keyword.LOG, severity=severity, text=message)


def status(*fields):
    return Line(Keyword.STATUS, fields=fields)


LINES = {
    b"VERSION 1": Line(Keyword.VERSION, text="1"),
    b"VERSION-ERROR no-version": Line(Keyword.VERSION_ERROR, text="no-version"),
    b"ENV-ERROR no TOR_PT_STATE_LOCATION": Line(Keyword.ENV_ERROR, text="no TOR_PT_STATE_LOCATION"),
    b"PROXY DONE": Line(Keyword.PROXY),
    b"PROXY-ERROR only socks5": Line(Keyword.PROXY_ERROR, text="only socks5"),
    b"CMETHOD obfs4 socks5 127.0.0.1:32784": cmethod("obfs4", "socks5", "127.0.0.1", 32784),
    b"CMETHOD _1 socks4 [::1]:1": cmethod("_1", "socks4", "::1", 1),
    b"CMETHOD-ERROR trebuchet no rocks available": Line(
        Keyword.CMETHOD_ERROR, name="trebuchet", text="no rocks available"
    ),
    b"CMETHODS DONE": Line(Keyword.CMETHODS),
    b"SMETHOD trebuchet 198.51.100.1:19999": smethod("trebuchet", "198.51.100.1", 19999),
    rb"SMETHOD rot_by_N [2001:db8::1]:2323 ARGS:N=13,key\=\,\\=a\=b\,c\\": smethod(
        "rot_by_N", "2001:db8::1", 2323, (("N", "13"), ("key=,\\", "a=b,c\\"))
    ),
    b"SMETHOD-ERROR trebuchet no cows available": Line(
        Keyword.SMETHOD_ERROR, name="trebuchet", text="no cows available"
    ),
    b"SMETHODS DONE": Line(Keyword.SMETHODS),
    rb'LOG SEVERITY=debug MESSAGE="it said \"no\" \\ \342\202\254\012"': log("debug", 'it said "no" \\ \u20ac\n'),
    b'STATUS TRANSPORT=obfs4 ADDRESS=198.51.100.123:1234 REASON="not there"': status(
        ("TRANSPORT", "obfs4"), ("ADDRESS", "198.51.100.123:1234"), ("REASON", "not there")
    ),
}


@pytest.mark.parametrize(("written", "line"), LINES.items(), ids=[line.decode() for line in LINES])
def test_both_ways(written, line):
    assert line.encode() == written + b"\n"
    assert parse_line(written) == line
    assert parse_line(written + b"\r\n") == line


def test_every_line_of_the_table_is_tried():
    assert {line.keyword for line in LINES.values()} == set(Keyword)


# Other spellings that children use.


@pytest.mark.parametrize(
    ("written", "line"),
    [
        (b"SMETHOD obfs3 127.0.0.1:1 ARGS:", smethod("obfs3", "127.0.0.1", 1)),
        (b"SMETHOD  a  127.0.0.1:1  FUTURE:1  ARGS:k=v=w", smethod("a", "127.0.0.1", 1, (("k", "v=w"),))),
        (b"SMETHOD a 127.0.0.1:1 ARGS:k=", smethod("a", "127.0.0.1", 1, (("k", ""),))),
        (b"CMETHOD a socks5 127.0.0.1:1 more", cmethod("a", "socks5", "127.0.0.1", 1)),
        (b"CMETHOD-ERROR a", Line(Keyword.CMETHOD_ERROR, name="a")),
        (b"LOG MESSAGE=short SEVERITY=error", log("error", "short")),
        (rb'LOG SEVERITY=info MESSAGE="\x41\n\t\'\7"', log("info", "A\n\t'\a")),
        (rb'LOG SEVERITY=info MESSAGE="\377"', log("info", r"\xff")),
        (b"ENV-ERROR", Line(Keyword.ENV_ERROR)),
    ],
)
def test_is_understood(written, line):
    assert parse_line(written) == line


@pytest.mark.parametrize(
    "written",
    [
        b"CMETHOD obfs4 socks5",
        b"CMETHOD obfs4 http 127.0.0.1:1",
        b"CMETHOD obfs4 socks5 localhost:1",
        b"CMETHOD obfs4 socks5 127.0.0.1:0",
        b"CMETHOD obfs4 socks5 127.0.0.1:65536",
        b"CMETHOD obfs4 socks5 ::1:80",
        b"CMETHOD obfs4 socks5 [127.0.0.1]:80",
        b"CMETHOD 4obfs socks5 127.0.0.1:1",
        b"CMETHOD",
        b"CMETHOD-ERROR 4 text",
        b"CMETHODS",
        b"CMETHODS done",
        b"PROXY",
        b"SMETHOD a 127.0.0.1:1 ARGS:k",
        b"SMETHOD a 127.0.0.1:1 ARGS:=v",
        b"SMETHOD a 127.0.0.1:1 ARGS:a=b,",
        b"SMETHOD a 127.0.0.1:1 ARGS:a=b\\",
        b"SMETHODS DONE DONE",
    ],
)
def test_a_faulty_line_of_the_configuration_breaks_the_conversation(written):
    with pytest.raises(ValueError, match=f"^a line {written.split()[0].decode()} is faulty: ") as caught:
        parse_line(written)
    # What it held may be an argument or an address.
    assert not any(word in str(caught.value) for word in written.decode().split()[1:] if len(word) > 4)


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b"AMUSEMENT 7 of 8",
        b"LOG",
        b"LOG SEVERITY=loud MESSAGE=a",
        b"LOG SEVERITY=info",
        b'LOG SEVERITY=info MESSAGE="a',
        b'LOG SEVERITY=info MESSAGE="\\q"',
        b'LOG SEVERITY=info MESSAGE="\\400"',
        b"STATUS nothing",
        b'STATUS a="b"c=d',
    ],
)
def test_an_unknown_line_and_a_faulty_log_or_status_are_ignored(written):
    assert parse_line(written) is None


@pytest.mark.parametrize(
    "line",
    [
        cmethod("obfs 4", "socks5", "127.0.0.1", 1),
        cmethod("obfs4", "socks5", "localhost", 1),
        cmethod("obfs4", "socks5", "127.0.0.1", 0),
        Line(Keyword.CMETHOD_ERROR, name="", text="text"),
        smethod("a", "127.0.0.1", 1, (("", "v"),)),
        smethod("a", "127.0.0.1", 1, (("k", "two words"),)),
        log("loud", "text"),
        status(("a b", "c")),
    ],
)
def test_what_no_parent_could_read_is_not_written(line):
    with pytest.raises(ValueError, match=r"."):
        line.encode()


def test_a_text_stays_on_its_line():
    assert (
        Line(Keyword.ENV_ERROR, text="a\nCMETHODS DONE\x00\u20ac").encode()
        == rb"ENV-ERROR a\nCMETHODS DONE\x00\u20ac" + b"\n"
    )


def test_no_repr_shows_what_may_be_secret():
    lines = [
        smethod("a", "127.0.0.1", 1, (("cert", "secret"),)),
        log("info", "secret"),
        status(("ADDRESS", "secret")),
        Line(Keyword.PROXY_ERROR, text="secret"),
    ]
    assert "secret" not in repr(lines)


visible = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E))
fields = st.lists(st.tuples(visible.filter(bool), visible)).map(tuple)


@given(fields)
def test_any_arguments_of_a_server_arrive(arguments):
    line = smethod("a", "127.0.0.1", 1, arguments)
    assert parse_line(line.encode()) == line


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_message_arrives(message):
    line = log("notice", message)
    assert parse_line(line.encode()) == line
    line = status(("TRANSPORT", "a"), ("MESSAGE", message))
    assert parse_line(line.encode()) == line


@given(st.binary())
def test_any_bytes_are_read_or_refused(data):
    for keyword in (b"", b"LOG ", b"STATUS ", b"CMETHOD ", b"SMETHOD a 127.0.0.1:1 ARGS:"):
        try:
            parse_line(keyword + data)
        except ValueError as error:
            assert "is faulty" in str(error)  # noqa: PT017
