"""What a parent tells a transport in its environment, read and written."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.vectors import thorough

from txsocksx_ext.transports.arguments import Arguments
from txsocksx_ext.transports.environment import (
    ClientEnvironment,
    EnvironmentFault,
    ServerEnvironment,
    check_version,
    read_environment,
)
from txsocksx_ext.transports.upstream import UpstreamProxy

COMMON = {"TOR_PT_MANAGED_TRANSPORT_VER": "1", "TOR_PT_STATE_LOCATION": "/var/lib/tor/pt_state/"}
CLIENT = {**COMMON, "TOR_PT_CLIENT_TRANSPORTS": "obfs4,sealed"}
# As tor 0.4.9 sets them.
SERVER = {
    **COMMON,
    "TOR_PT_EXIT_ON_STDIN_CLOSE": "1",
    "TOR_PT_SERVER_TRANSPORTS": "dummy,sealed",
    "TOR_PT_SERVER_BINDADDR": "dummy-0.0.0.0:0,sealed-[::1]:4443",
    "TOR_PT_ORPORT": "127.0.0.1:9001",
    "TOR_PT_EXTENDED_SERVER_PORT": "",
    "TOR_PT_SERVER_TRANSPORT_OPTIONS": r"dummy:secret=a\;b\:c;sealed:key=1;sealed:other=2=3",
}


def test_a_client():
    environment = read_environment({**CLIENT, "TOR_PT_OUTBOUND_BIND_ADDRESS_V6": "[2001:db8::1]", "HOME": "/root"})
    assert environment == ClientEnvironment(
        state_location=Path("/var/lib/tor/pt_state"),
        exit_on_stdin_close=False,
        outbound_v6="2001:db8::1",
        transports=("obfs4", "sealed"),
    )


def test_a_server():
    environment = read_environment(SERVER)
    assert environment == ServerEnvironment(
        state_location=Path("/var/lib/tor/pt_state"),
        transports=("dummy", "sealed"),
        bind_addresses={"dummy": ("0.0.0.0", 0), "sealed": ("::1", 4443)},
        options={
            "dummy": Arguments({"secret": "a;b:c"}),
            "sealed": Arguments({"key": "1", "other": "2=3"}),
        },
        or_port=("127.0.0.1", 9001),
    )


@pytest.mark.parametrize(("value", "meaning"), [("1", True), ("0", False), ("", False), (None, False)])
def test_the_end_of_stdin(value, meaning):
    more = {} if value is None else {"TOR_PT_EXIT_ON_STDIN_CLOSE": value}
    assert read_environment({**CLIENT, **more}).exit_on_stdin_close is meaning


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "ENV-ERROR TOR_PT_MANAGED_TRANSPORT_VER is not set"),
        ({"TOR_PT_MANAGED_TRANSPORT_VER": ""}, "ENV-ERROR TOR_PT_MANAGED_TRANSPORT_VER is empty"),
        ({"TOR_PT_MANAGED_TRANSPORT_VER": "2"}, "VERSION-ERROR no-version"),
        ({"TOR_PT_MANAGED_TRANSPORT_VER": "11,2,0"}, "VERSION-ERROR no-version"),
        (COMMON, "ENV-ERROR neither TOR_PT_CLIENT_TRANSPORTS nor TOR_PT_SERVER_TRANSPORTS is set"),
        (
            {**CLIENT, **SERVER},
            "ENV-ERROR TOR_PT_CLIENT_TRANSPORTS and TOR_PT_SERVER_TRANSPORTS are both set: a transport is one of them",
        ),
        ({**CLIENT, "TOR_PT_CLIENT_TRANSPORTS": ""}, "ENV-ERROR TOR_PT_CLIENT_TRANSPORTS is empty"),
        (
            {**CLIENT, "TOR_PT_CLIENT_TRANSPORTS": "a,,b"},
            "ENV-ERROR TOR_PT_CLIENT_TRANSPORTS is faulty: the name of a transport is letters, digits and underscores,"
            " and begins with no digit",
        ),
        ({**CLIENT, "TOR_PT_STATE_LOCATION": ""}, "ENV-ERROR TOR_PT_STATE_LOCATION is empty"),
        (
            {**CLIENT, "TOR_PT_OUTBOUND_BIND_ADDRESS_V4": "::1"},
            "ENV-ERROR TOR_PT_OUTBOUND_BIND_ADDRESS_V4 is faulty: it is no IPv4 address",
        ),
        (
            {**CLIENT, "TOR_PT_OUTBOUND_BIND_ADDRESS_V6": "2001:db8::1"},
            "ENV-ERROR TOR_PT_OUTBOUND_BIND_ADDRESS_V6 is faulty: it is no IPv6 address in brackets",
        ),
        (
            {**CLIENT, "TOR_PT_PROXY": "socks9://secret@1.2.3.4:5"},
            "PROXY-ERROR TOR_PT_PROXY is a proxy of another kind than socks5, socks4a, http",
        ),
        (
            {**CLIENT, "TOR_PT_PROXY": "socks5://proxy.secret:5"},
            "PROXY-ERROR TOR_PT_PROXY does not say where the proxy is as IP:PORT",
        ),
        ({**CLIENT, "TOR_PT_PROXY": "secret"}, "PROXY-ERROR TOR_PT_PROXY is not SCHEME://IP:PORT"),
        (
            {**CLIENT, "TOR_PT_PROXY": "socks4a://user:secret@1.2.3.4:5"},
            "PROXY-ERROR TOR_PT_PROXY has a password, and socks4a carries none",
        ),
        (
            {**SERVER, "TOR_PT_ORPORT": ""},
            "ENV-ERROR neither TOR_PT_ORPORT nor TOR_PT_EXTENDED_SERVER_PORT is set",
        ),
        ({**SERVER, "TOR_PT_ORPORT": "secret:9"}, "ENV-ERROR TOR_PT_ORPORT is faulty: an address is not IP:PORT"),
        (
            {**SERVER, "TOR_PT_EXTENDED_SERVER_PORT": "127.0.0.1:9"},
            "ENV-ERROR TOR_PT_AUTH_COOKIE_FILE is not set, and TOR_PT_EXTENDED_SERVER_PORT is",
        ),
        (
            {**SERVER, "TOR_PT_SERVER_BINDADDR": "sealed"},
            "ENV-ERROR TOR_PT_SERVER_BINDADDR is faulty: it is not NAME-IP:PORT,NAME-IP:PORT",
        ),
        (
            {**SERVER, "TOR_PT_SERVER_BINDADDR": "sealed-127.0.0.1:99999"},
            "ENV-ERROR TOR_PT_SERVER_BINDADDR is faulty: an address is not IP:PORT",
        ),
        *(
            (
                {**SERVER, "TOR_PT_SERVER_TRANSPORT_OPTIONS": options},
                f"ENV-ERROR TOR_PT_SERVER_TRANSPORT_OPTIONS is faulty: {problem}",
            )
            for options, problem in {
                "key=secret": "it is not NAME:KEY=VALUE;NAME:KEY=VALUE",
                "sealed:=secret": "it is not NAME:KEY=VALUE;NAME:KEY=VALUE",
                "sealed:secret": "argument 1 is not key=value",
                "sealed:key=secret;": "argument 2 is not key=value",
                "sealed:key=a\\": "argument 1 ends in a lone backslash",
            }.items()
        ),
    ],
)
def test_what_is_wrong_is_said_as_the_specification_has_it(environ, words):
    def read():
        check_version(environ)
        read_environment(environ)

    with pytest.raises(EnvironmentFault) as caught:
        read()
    assert caught.value.line.encode().decode("ascii") == words + "\n"


@pytest.mark.parametrize(("offered", "is_spoken"), [("2,1", True), ("1", True), ("2,10", False), ("", False)])
def test_one_of_the_offered_versions_is_ours(offered, is_spoken):
    with contextlib.nullcontext() if is_spoken else pytest.raises(EnvironmentFault):
        check_version({"TOR_PT_MANAGED_TRANSPORT_VER": offered})


names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
ports = st.integers(1, 0xFFFF)
addresses = st.tuples(st.ip_addresses().map(str), ports)
texts = st.text(st.characters(min_codepoint=1, exclude_categories=["Cs"]), min_size=1, max_size=30)
common = {
    "state_location": st.just(Path("/a/folder with spaces")),
    "exit_on_stdin_close": st.booleans(),
    "outbound_v4": st.none() | st.ip_addresses(v=4).map(str),
    "outbound_v6": st.none() | st.ip_addresses(v=6).map(str),
    "transports": st.lists(names, min_size=1, max_size=4, unique=True).map(tuple),
}
proxies = st.one_of(
    st.builds(UpstreamProxy, st.sampled_from(["socks5", "socks4a", "http"]), st.ip_addresses().map(str), ports),
    st.builds(UpstreamProxy, st.just("socks5"), st.ip_addresses().map(str), ports, texts, texts),
)


@thorough
@given(st.builds(ClientEnvironment, proxy=st.none() | proxies, **common))
def test_what_a_parent_writes_a_client_reads(environment):
    variables = environment.variables()
    check_version(variables)
    assert read_environment(variables) == environment


@thorough
@given(
    st.builds(
        ServerEnvironment,
        or_port=addresses,
        extended_or_port=st.none() | addresses,
        cookie_file=st.just(Path("/a/cookie")),
        options=st.dictionaries(
            names,
            st.lists(st.tuples(texts.filter(lambda key: "=" not in key), texts), min_size=1, max_size=3).map(Arguments),
            max_size=3,
        ),
        **common,
    ),
    st.data(),
)
def test_what_a_parent_writes_a_server_reads(environment, data):
    bound = st.tuples(st.ip_addresses().map(str), st.integers(0, 0xFFFF))
    addresses = {name: data.draw(bound) for name in environment.transports}
    environment.bind_addresses.update(addresses)
    assert read_environment(environment.variables()) == environment


def test_secrets_are_not_shown():
    proxy = UpstreamProxy("socks5", "192.0.2.9", 1080, "user", "secret")
    shown = repr(proxy) + repr(ClientEnvironment(state_location=Path("/"), transports=("a",), proxy=proxy))
    assert "secret" not in shown
    assert "192.0.2.9" not in shown
    shown = repr(read_environment(SERVER))
    assert "a;b:c" not in shown


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("socks5://192.0.2.9:1080", ("", "")),
        ("http://user@192.0.2.9:1080/", ("user", "")),
        # As tor writes it: nothing is escaped.
        ("socks5://us/er:p@ss:w#rd@192.0.2.9:1080", ("us/er", "p@ss:w#rd")),
        ("http://us%3Aer:%40@192.0.2.9:1080", None),
        ("http://user:%40%2F@192.0.2.9:1080", ("user", "@/")),
        # Whatever bytes: escaped, and as the environment has what is not UTF-8.
        ("socks5://us%ffer:%c3%bc%e4@192.0.2.9:1080", ("us\udcffer", "ü\udce4")),
        ("socks5://us\udcffer:ü\udce4@192.0.2.9:1080", ("us\udcffer", "ü\udce4")),
    ],
)
def test_the_login_of_a_proxy(url, login):
    if login is None:
        with pytest.raises(ValueError, match="colon"):
            UpstreamProxy.of(url)
        return
    proxy = UpstreamProxy.of(url)
    assert (proxy.host, proxy.port) == ("192.0.2.9", 1080)
    assert (proxy.username, proxy.password) == login
    assert UpstreamProxy.of(proxy.url()) == proxy


def test_a_login_that_cannot_be_used():
    with pytest.raises(ValueError, match="password without a user name"):
        UpstreamProxy.of("http://:secret@192.0.2.9:1080")
    with pytest.raises(ValueError, match="without a password"):
        UpstreamProxy.of("socks5://user@192.0.2.9:1080")
    with pytest.raises(ValueError, match="above 255 bytes"):
        UpstreamProxy.of(f"socks5://{'u' * 256}:p@192.0.2.9:1080")
