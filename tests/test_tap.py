"""The options of ``twistd socks5ext``: what each does, and what each says of a bad value."""

import subprocess
import sys

import pytest
from argon2 import PasswordHasher
from examples.raw_peers import tls_listener
from support.programs import free_port, has_written
from twisted.application.service import IService
from twisted.internet import endpoints, reactor
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IStreamServerEndpointStringParser
from twisted.plugin import getPlugins
from twisted.python.usage import UsageError

from txsocksx_ext import Limits, Session
from txsocksx_ext.options import DEFAULT_LISTENER
from txsocksx_ext.protocol.codes import Method
from txsocksx_ext.protocol.messages import Address
from txsocksx_ext.server.limits import connections_by_descriptors
from txsocksx_ext.server.listeners import ListenerString
from txsocksx_ext.server.service import SOCKS5ExtService
from txsocksx_ext.server.workers import WorkersService
from txsocksx_ext.tap import Options, makeService


def options(*arguments):
    parsed = Options()
    parsed.parseOptions(arguments)
    return parsed


def factory(*arguments):
    """The factory that the options describe."""
    return makeService(options(*arguments)).factory


def refused(*arguments):
    """What is said of the options."""
    with pytest.raises(UsageError) as caught:
        options(*arguments)
    return str(caught.value)


def test_an_argument_that_is_no_option_is_named():
    assert refused("--log-targets", "yes") == "unexpected argument 'yes': every setting is an option; see --help"


# What each does.


def test_the_defaults():
    service = makeService(options())
    assert isinstance(service, SOCKS5ExtService)
    assert IService.providedBy(service)
    limits = service.factory.limits
    assert (limits.handshake_timeout, limits.connect_timeout, limits.idle_timeout) == (10, 45, None)
    assert limits.max_connections == connections_by_descriptors()
    assert limits.max_per_peer == 256
    pairs = limits.pairs
    assert (pairs.pairs, pairs.key_bytes, pairs.value_bytes, pairs.total_bytes) == (64, 255, 16384, 65536)
    assert [route.name for route in service.factory.policy.routes] == ["direct"]
    assert service.factory.portal is None
    assert service.factory.anonymous
    assert service.factory.reactor is reactor
    assert not ListenerString(DEFAULT_LISTENER).is_exposed
    assert DEFAULT_LISTENER == "tcp:1080:interface=127.0.0.1"


@pytest.mark.parametrize(
    ("arguments", "served"),
    [
        ((), {0x05: "socks5", 0x04: "socks4", ord("C"): "http", ord("c"): "http"}),
        (("--protocol", "http", "--protocol", "socks4"), {0x04: "socks4", ord("C"): "http", ord("c"): "http"}),
        (("--protocol", "socks5"), {0x05: "socks5"}),
    ],
)
def test_the_protocols_by_first_bytes(arguments, served):
    frontends = factory(*arguments).frontends
    assert {byte: frontends[byte].name for byte in (0x05, 0x04, *b"Cc", 0x16, 0x80) if frontends[byte].name} == served


def test_an_unknown_protocol_is_named():
    assert refused("--protocol", "SOCKS5") == "--protocol: unknown protocol 'SOCKS5'; known are socks5, socks4, http"


@pytest.mark.parametrize(
    ("option", "value", "read", "expected"),
    [
        ("--handshake-timeout", "2.5", lambda limits: limits.handshake_timeout, 2.5),
        ("--connect-timeout", "3", lambda limits: limits.connect_timeout, 3),
        ("--idle-timeout", "600", lambda limits: limits.idle_timeout, 600),
        ("--idle-timeout", "0", lambda limits: limits.idle_timeout, None),
        ("--max-connections", "7", lambda limits: limits.max_connections, 7),
        ("--max-per-peer", "8", lambda limits: limits.max_per_peer, 8),
        ("--max-pairs", "9", lambda limits: limits.pairs.pairs, 9),
        ("--max-pairs", "65535", lambda limits: limits.pairs.pairs, 65535),
        ("--max-auth-bytes", "1000", lambda limits: limits.pairs.total_bytes, 1000),
    ],
)
def test_a_limit(option, value, read, expected):
    assert read(factory(option, value).limits) == expected
    assert read(factory(f"{option}={value}").limits) == expected


def test_limits_that_are_not_given_are_those_of_programs():
    assert factory().limits == Limits()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[
            (option, value)
            for option in ("--handshake-timeout", "--connect-timeout")
            for value in ("", "soon", "0", "-1", "nan", "inf", "1s")
        ],
        *[(option, value) for option in ("--idle-timeout", "--drain") for value in ("", "never", "-1", "nan", "inf")],
        *[
            (option, value)
            for option in ("--max-connections", "--max-per-peer", "--max-pairs", "--max-auth-bytes", "--workers")
            for value in ("", "many", "0", "-1", "1.5", "inf")
        ],
        ("--max-pairs", "65536"),
    ],
)
def test_a_bad_number_is_refused_by_the_name_of_its_option(option, value):
    said = refused(f"{option}={value}")
    assert option in said
    assert value in said or value == "65536"
    assert refused(option, value) == said


def test_rules_in_their_order():
    table = factory("--route", "*.example=refuse", "--route=192.0.2.0/24=refuse", "--route", "*=direct").policy
    session = Session(None, table)
    assert table.route_of(Address.of("www.example", 80), session).route.name == "refuse"
    assert table.route_of(Address.of("www.example.org", 80), session).route.name == "direct"


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("direct", "PATTERN=ROUTE"),
        ("*=nowhere", "nowhere"),
        ("*:http=direct", "*:http"),
        ("10.0.0.1/8=direct", "10.0.0.1/8"),
        ("*=socks:tcp\\:127.0.0.1", "*"),
        ("*=socks:tcp\\:127.0.0.1\\:http", "*"),
        ("*=socks:nothing\\:here", "nothing"),
        ("*=socks:127.0.0.1:9050:username=u:password-file=/nowhere/at/all", "/nowhere/at/all"),
        ("*=tor:tcp\\:127.0.0.1", "*"),
    ],
)
def test_a_bad_rule_is_refused(rule, said):
    message = refused("--route", rule)
    assert "--route" in message
    assert said in message


def test_drain():
    assert makeService(options("--drain", "3.5"))._drain == 3.5
    assert makeService(options("--drain", "0"))._drain == 0


def limits_of_a_worker(*arguments):
    return makeService(options(*arguments))._plan.settings.limits


def test_workers_share_the_limits():
    assert isinstance(makeService(options("--workers", "1")), SOCKS5ExtService)
    assert isinstance(makeService(options("--workers", "2")), WorkersService)
    shared = limits_of_a_worker("--workers", "3", "--max-connections", "10", "--max-per-peer", "9", "--max-pairs", "6")
    assert (shared.max_connections, shared.max_per_peer, shared.pairs.pairs) == (4, 3, 6)
    # Each process has descriptors of its own.
    assert limits_of_a_worker("--workers", "3").max_connections == connections_by_descriptors()


@pytest.mark.parametrize("description", ["fd:3", "haproxy:fd:3"])
def test_a_listener_that_workers_cannot_share_is_named(description, monkeypatch):
    class Parser:
        """A kind of listener such as a plugin has."""

        prefix = "fd"

        def parseStreamServer(self, reactor, *args, **kwargs):
            return TCP4ServerEndpoint(reactor, 0)

    plugins = [*endpoints.getPlugins(IStreamServerEndpointStringParser), Parser()]
    monkeypatch.setattr(endpoints, "getPlugins", lambda interface: plugins)
    options("--listen", description, "--allow-remote")
    said = refused("--listen", description, "--allow-remote", "--workers", "2")
    assert f"--listen {description}" in said
    assert "the kind fd" in said
    assert "systemd" in said


def test_a_system_without_shared_ports_has_no_workers(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "--workers" in refused("--workers", "2")
    options("--workers", "1")


def test_log_targets():
    assert factory("--log-targets").log.with_targets
    assert not factory().log.with_targets


# Who may come in.


def offers(made):
    return list(made.methods(None))


async def test_checkers_close_the_door_to_others(tmp_path):
    path = tmp_path / "passwords"
    path.write_text("alice:" + PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("secret") + "\n")
    plain = tmp_path / "plain"
    plain.write_text("alice:secret\n")
    for auth in ("memory:alice:secret", f"file:{plain}", f"hashed:{path}"):
        made = factory("--auth", auth)
        assert made.portal is not None
        assert not made.anonymous
        assert offers(made) == [Method.EXTENDED, Method.USERNAME_PASSWORD]
        made = factory("--auth", auth, "--anonymous")
        assert made.anonymous
        assert offers(made) == [Method.EXTENDED, Method.USERNAME_PASSWORD, Method.NO_AUTHENTICATION]


@pytest.mark.parametrize(
    ("auth", "said"),
    [
        ("nothing", "nothing"),
        ("nothing:at:all", "nothing"),
        ("memory:alice", ""),
        ("hashed:/nowhere/at/all", "/nowhere/at/all"),
        ("hashed", "hashed:FILE"),
        ("anonymous", "anonymous"),
    ],
)
def test_a_bad_checker_is_refused_by_the_name_of_its_option(auth, said):
    message = refused("--auth", auth)
    assert "--auth" in message
    assert said in message


def test_a_bad_line_of_a_password_file_is_refused(tmp_path):
    path = tmp_path / "passwords"
    path.write_text("alice:in the clear\n")
    message = refused("--auth", f"hashed:{path}")
    assert "--auth" in message
    assert "line 1" in message
    assert "in the clear" not in message


def test_no_error_shows_a_password():
    assert "very-secret" not in refused("--auth", "memory:alice:very-secret:bob")


# Where to listen.


def listeners(tmp_path):
    """Descriptions, and whether others could read what clients send there."""
    tls = tls_listener(tmp_path)
    return [
        ("tcp:1080", True),
        ("tcp:0", True),
        ("tcp:port=1080", True),
        ("tcp:1080:interface=127.0.0.1", False),
        ("tcp:1080:127.0.0.1", False),
        ("tcp:port=1080:interface=127.0.0.1", False),
        ("tcp:1080:interface=127.5.6.7", False),
        ("tcp:1080:interface=localhost", False),
        ("tcp:1080:interface=0.0.0.0", True),
        ("tcp:1080:interface=", True),
        ("tcp:1080:interface=192.0.2.1", True),
        ("tcp:1080:interface=localhost.example", True),
        ("tcp:1080:interface=\\:\\:1", False),
        ("tcp6:1080", True),
        ("tcp6:1080:interface=\\:\\:1", False),
        ("tcp6:1080:interface=\\:\\:", True),
        ("tcp6:1080:interface=2001\\:db8\\:\\:1", True),
        (f"unix:{tmp_path}/socks", False),
        (f"unix:address={tmp_path}/socks:mode=660", False),
        (tls, False),
        (tls.replace("127.0.0.1", "0.0.0.0"), False),
        ("haproxy:tcp:1080", True),
        ("haproxy:tcp:1080:interface=127.0.0.1", False),
        (f"haproxy:unix:{tmp_path}/socks", False),
    ]


def test_listeners_that_others_could_sniff_need_to_be_allowed(tmp_path):
    for description, is_unsafe in listeners(tmp_path):
        if is_unsafe:
            said = refused("--listen", description)
            assert f"--listen {description}" in said
            assert "--allow-remote" in said
        else:
            makeService(options("--listen", description))
        # Credentials change nothing of it: they are what could be read.
        if is_unsafe:
            assert "--allow-remote" in refused("--listen", description, "--auth", "memory:alice:secret")
        makeService(options("--listen", description, "--allow-remote"))


@pytest.mark.parametrize(
    ("description", "is_unsafe"),
    [
        # What cannot be known counts as unsafe.
        ("systemd:domain=INET:index=0", True),
        ("fd:3", True),
        ("somebody:else", True),
        ("haproxy", True),
        ("haproxy:somebody:else", True),
        ("tls:/certificates:443", False),
    ],
)
def test_listeners_of_other_kinds(description, is_unsafe):
    assert ListenerString(description).is_exposed is is_unsafe


@pytest.mark.parametrize(
    "description",
    [
        "",
        "tcp",
        "tcp:",
        "tcp:http",
        "tcp:65536",
        "tcp:-1",
        "tcp6:port=99999",
        "haproxy:tcp:99999",
        "nothing:1080",
        "tcp:1080:colour=red",
        "ssl:1080",
        "unix",
        "systemd:domain=INET:index=0",
        "=tcp",
    ],
)
def test_a_listener_that_is_none_is_named(description):
    for more in ([], ["--allow-remote"]):
        said = refused("--listen", description, *more)
        assert "--listen" in said
        assert description in said


def test_tls_behind_a_balancers_header_is_refused(tmp_path):
    description = f"haproxy:{tls_listener(tmp_path)}"
    said = refused("--listen", description)
    assert f"--listen {description}" in said
    assert "haproxy:tcp" in said


def test_two_headers_of_balancers_are_refused():
    description = "haproxy:haproxy:tcp:1080:interface=127.0.0.1"
    said = refused("--listen", description)
    assert f"--listen {description}" in said
    assert "write haproxy: once" in said


def test_one_bad_listener_among_several_is_enough():
    good = "tcp:1080:interface=127.0.0.1"
    assert "tcp:1081" in refused("--listen", good, "--listen", "tcp:1081")
    assert len(list(makeService(options("--listen", good, "--listen", good)))) == 2
    assert len(list(makeService(options()))) == 1


# As a program.


def run(*arguments):
    runner = "from twisted.scripts.twistd import run; run()"
    return subprocess.run(
        [sys.executable, "-c", runner, "-n", "--pidfile=", "socks5ext", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_help_names_every_option_and_route():
    shown = run("--help")
    assert shown.returncode == 0
    for route in ("direct", "refuse", "socks:", "socks4:", "http:", "tor:", "transport:"):
        assert route in shown.stdout
    for option in (
        *("listen", "allow-remote", "auth", "anonymous", "route", "handshake-timeout", "connect-timeout"),
        *("idle-timeout", "max-connections", "max-per-peer", "max-pairs", "max-auth-bytes", "drain", "log-targets"),
        "workers",
    ):
        assert f"--{option}" in shown.stdout


def test_several_listeners_serve(socks5ext, tmp_path):
    ports = free_port(), free_port()
    server = socks5ext(listen=[f"tcp:{port}:interface=127.0.0.1" for port in ports])
    for port in ports:
        assert has_written(server, f"starting on {port}")


def test_the_plugin_is_found():
    from twisted.application.service import IServiceMaker

    (found,) = [each for each in getPlugins(IServiceMaker) if each.tapname == "socks5ext"]
    assert found.options is Options
