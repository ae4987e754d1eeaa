"""The configuration file: what it may hold, what is wrong with it, and what is probably not meant."""

import subprocess
import sys

import pytest
from argon2 import PasswordHasher
from examples.raw_peers import tls_listener
from support.programs import has_written
from twisted.internet import reactor

from txsocksx_ext.config import Configuration, ConfigurationError
from txsocksx_ext.policy.rules import RuleSpec
from txsocksx_ext.policy.unreachable import unreachable_rules
from txsocksx_ext.tap import Options


@pytest.fixture
def configured(tmp_path):
    """Makes a configuration of the text of a file and of a command line."""

    def make(text, *arguments):
        path = tmp_path / "gateway.toml"
        path.write_text(text)
        parsed = Options()
        parsed.postOptions = lambda: None
        parsed.parseOptions(["--config", str(path), *arguments])
        return Configuration(reactor, parsed.given)

    return make


@pytest.fixture
def faults(configured, tmp_path):
    """Returns what is wrong, without the folder of the file."""

    def make(text, *arguments):
        with pytest.raises(ConfigurationError) as caught:
            configured(text, *arguments)
        return [each.replace(f"{tmp_path}/", "") for each in caught.value.faults]

    return make


def users_file(folder, *names):
    path = folder / "users"
    hashed = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("secret")
    path.write_text("".join(f"{name}:{hashed}\n" for name in names))
    path.chmod(0o600)
    return path


WHOLE = """
listen = ["tcp:1080:interface=127.0.0.1", "tcp:1081:interface=127.0.0.1"]
protocol = "http"
auth = ["memory:alice:secret"]
anonymous = true
handshake-timeout = 2.5
connect-timeout = 3
idle-timeout = 600
keepalive = 60
drain = 1
max-connections = 7
max-per-peer = 8
max-pairs = 9
max-auth-bytes = 1000
log-targets = true
max-per-user = 11
user-rate-up = 100000
user-rate-down = 200000
connection-rate-up = 300000
connection-rate-down = 400000
proxy-protocol-from = "192.0.2.0/24"
reload-ends = "removed-users"
route = ["*.onion=refuse"]
"""


def test_every_option_by_its_name(configured):
    made = configured(WHOLE)
    assert made.listeners == ["tcp:1080:interface=127.0.0.1", "tcp:1081:interface=127.0.0.1"]
    settings, limits = made.settings, made.settings.limits
    assert (settings.protocols, settings.auth, settings.anonymous) == (("http",), ("memory:alice:secret",), True)
    assert (limits.handshake_timeout, limits.connect_timeout, limits.idle_timeout) == (2.5, 3, 600)
    assert (limits.keepalive, limits.max_per_user) == (60, 11)
    assert (limits.user_rate_up, limits.user_rate_down) == (100_000, 200_000)
    assert (limits.connection_rate_up, limits.connection_rate_down) == (300_000, 400_000)
    assert (limits.max_connections, limits.max_per_peer, limits.pairs.pairs, limits.pairs.total_bytes) == (
        7,
        8,
        9,
        1000,
    )
    assert (made.drain, made.ends_removed_users, settings.log_targets) == (1, True, True)
    assert settings.rules == (RuleSpec(("*.onion",), "refuse"),)
    assert settings.balancers == ("192.0.2.0/24",)
    assert configured("workers = 3\nmax-connections = 10").settings.limits.max_connections == 4


def test_the_command_line_wins(configured):
    made = configured(
        WHOLE,
        "--listen",
        "tcp:1082:interface=127.0.0.1",
        "--connect-timeout",
        "5",
        "--route",
        "*=direct",
        "--protocol=socks5",
    )
    assert made.listeners == ["tcp:1082:interface=127.0.0.1"]
    assert made.settings.limits.connect_timeout == 5
    assert made.settings.rules == (RuleSpec(("*",), "direct"),)
    assert made.settings.protocols == ("socks5",)
    assert made.settings.limits.idle_timeout == 600


def test_rules_are_tables(configured):
    made = configured("""
        [[rule]]
        to = [":25", "private"]
        route = "refuse"
        [[rule]]
        to = "*.onion"
        from = ["192.0.2.0/24", "2001:db8::/32"]
        user = "alice"
        protocol = ["socks5", "http"]
        route = "direct"
        [[rule]]
        route = "direct"
    """)
    assert made.settings.rules == (
        RuleSpec((":25", "private"), "refuse"),
        RuleSpec(("*.onion",), "direct", ("192.0.2.0/24", "2001:db8::/32"), ("alice",), ("socks5", "http")),
        RuleSpec((), "direct"),
    )


@pytest.mark.parametrize(
    ("table", "description"),
    [
        ('{kind = "direct"}', "direct"),
        (
            '{kind = "tor", endpoint = "tcp:127.0.0.1:9050", control = "tcp:127.0.0.1:9051"}',
            r"tor:tcp\:127.0.0.1\:9050:control=tcp\:127.0.0.1\:9051",
        ),
        (
            '{kind = "tor", endpoint = ["127.0.0.1:1", "tcp:127.0.0.1:2"], control = ["127.0.0.1:3", "127.0.0.1:4"]}',
            r"tor:127.0.0.1\:1:tcp\:127.0.0.1\:2:control=127.0.0.1\:3,127.0.0.1\:4",
        ),
        ('{kind = "tor", launch = true, exec = "/bin/true"}', "tor:launch:exec=/bin/true"),
        ('{kind = "socks", proxy = "[::1]:1080", allow-cleartext = true}', r"socks:[\:\:1]\:1080:allow-cleartext=yes"),
        (
            """{kind = "transport", name = "some", exec = "/bin/true", arg = 'a "b c":d'}""",
            r'transport:some:exec=/bin/true:arg=a "b c"\:d',
        ),
    ],
)
def test_a_route_as_a_table_needs_no_backslashes(configured, table, description):
    assert configured(f"[[rule]]\nroute = {table}").settings.rules[0].route == description


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "conect-timeout = 3",
            "gateway.toml: unknown key 'conect-timeout'; the nearest known one is 'connect-timeout'",
        ),
        ("[[rules]]\nroute = 'direct'", "gateway.toml: unknown key 'rules'; the nearest known one is 'rule'"),
        ("check = true", "gateway.toml: unknown key 'check'"),
        (
            "[[rule]]\ntoo = '*'\nroute = 'direct'",
            "gateway.toml: rule 1: unknown key 'too'; the nearest known one is 'to'",
        ),
        ("connect-timeout = 'soon'", "gateway.toml: connect-timeout is a number, not 'soon'"),
        ("connect-timeout = 0", "gateway.toml: connect-timeout is a number of seconds above 0, not '0'"),
        ("connect-timeout = nan", "gateway.toml: connect-timeout is a number of seconds above 0"),
        ("max-per-peer = 1.5", "gateway.toml: max-per-peer is a whole number above 0, not '1.5'"),
        ("max-pairs = 65536", "gateway.toml: max-pairs is at most 65535"),
        ("workers = true", "gateway.toml: workers is a number, not True"),
        ("log-targets = 'yes'", "gateway.toml: log-targets is true or false, not 'yes'"),
        ("listen = 1080", "gateway.toml: listen is a string or a list of strings"),
        ("listen = 'tcp:1080'", "gateway.toml: listen tcp:1080: others could read"),
        ("listen = 'nothing:1080'", "gateway.toml: listen nothing:1080 is no server endpoint string"),
        ("listen = '1080'", "Unknown endpoint type: '1080'; an example is tcp:1080:interface=127.0.0.1"),
        ("listen = 'systemd:domain=UNIX:index=0'", "systemd passed no such socket"),
        ("protocol = ['socks6']", "gateway.toml: protocol: unknown protocol 'socks6'; known are socks5, socks4, http"),
        ("reload-ends = 'all'", "gateway.toml: reload-ends: unknown choice 'all'; known are none, removed-users"),
        ("auth = ['nothing']", "gateway.toml: auth nothing: unknown kind"),
        ("auth = ['file:/nowhere/at/all']", "gateway.toml: auth file: /nowhere/at/all: No such file or directory"),
        ("anonymous = true", "gateway.toml: anonymous has no meaning without auth"),
        ("rule = 'direct'", "gateway.toml: rule is written [[rule]]"),
        ("[rule]\nroute = 'direct'", "gateway.toml: rule is written [[rule]]"),
        ("route = ['*=direct']\n[[rule]]\nroute = 'direct'", "gateway.toml: route and [[rule]] have no order"),
        ("[[rule]]\nto = '*'", "gateway.toml: rule 1 says no route"),
        ("[[rule]]\nuser = []\nroute = 'direct'", "gateway.toml: rule 1: user is an empty list"),
        ("[[rule]]\nprotocol = 'ftp'\nroute = 'direct'", "gateway.toml: rule 1: protocol: unknown protocol 'ftp'"),
        ("[[rule]]\nto = 25\nroute = 'direct'", "gateway.toml: rule 1: to is a string"),
        ("[[rule]]\nroute = {endpoint = 'tcp:127.0.0.1:1'}", "gateway.toml: rule 1: route: kind is a string"),
        ("[[rule]]\nroute = 'nowhere'", "gateway.toml: route: the rule for *: unknown route kind 'nowhere'"),
        ("[[rule]]\nfrom = 'office'\nroute = 'direct'", "from office: 'office' is neither an address nor a network"),
        ("listen = [", "gateway.toml: this is not TOML: "),
        ("a = 1\nb = = 2", "(at line 2, column 5)"),
    ],
)
def test_a_fault_is_one_line_that_names_the_key(faults, text, said):
    (line,) = faults(text)
    assert said in line
    assert "\n" not in line


def test_a_fault_of_the_command_line_is_named_by_its_option(faults):
    assert faults("", "--route", "*=nowhere")[0].startswith("--route: the rule for *: ")
    assert faults("", "--listen", "tcp:1080")[0].startswith("--listen tcp:1080: ")
    assert faults("", "--auth", "file:/nowhere")[0] == "--auth file: /nowhere: No such file or directory"
    assert faults("", "--anonymous")[0].startswith("--anonymous has no meaning without auth")


def test_no_fault_shows_a_password(faults):
    lines = faults("auth = ['memory:alice:very-secret:bob', 'very-secret', ['very-secret']]")
    lines += faults("auth = ['memory:alice:very-secret:bob']")
    assert "very-secret" not in " ".join(lines)


# What is probably not meant.


@pytest.mark.parametrize(
    ("listener", "is_open"),
    [
        ("tcp:1080:interface=127.0.0.1", False),
        ("unix:/nowhere/at/all", False),
        ("tcp:1080", True),
        ("haproxy:tcp:1080:interface=127.0.0.1", True),
        ("haproxy:unix:/nowhere/at/all", True),
    ],
)
def test_an_open_server_is_warned_about(configured, listener, is_open):
    warnings = configured(f"listen = '{listener}'\nallow-remote = true").warnings
    assert [each for each in warnings if f"everybody who reaches {listener} can use this server" in each] == warnings
    assert bool(warnings) is is_open
    assert configured(f"listen = '{listener}'\nallow-remote = true\nauth = 'memory:a:b'").warnings == []


def test_tls_makes_an_open_server_no_safer(configured, tmp_path):
    local = tls_listener(tmp_path)
    assert configured("", "--listen", local).warnings == []
    (warning,) = configured("", "--listen", local.replace(":interface=127.0.0.1", "")).warnings
    assert "everybody who reaches" in warning


@pytest.mark.parametrize("kind", ["file", "hashed"])
def test_a_file_without_users_is_warned_about(configured, tmp_path, kind):
    path = users_file(tmp_path)
    (warning,) = configured(f"auth = '{kind}:{path}'").warnings
    assert warning == f"{path} has no user: nobody can log in with it"
    users_file(tmp_path, "alice")
    assert configured(f"auth = '{kind}:{path}'").warnings == []


def test_rules_that_depend_on_what_nobody_checks_are_warned_about(configured):
    text = "[[rule]]\nuser = 'alice'\nroute = 'direct'"
    assert "believes every client" in configured(text).warnings[0]
    assert configured(f"auth = 'memory:a:b'\n{text}").warnings == []


def test_a_rule_for_a_protocol_that_is_not_served_is_warned_about(configured):
    text = "[[rule]]\nprotocol = 'http'\nroute = 'direct'"
    assert "is not served" in configured(f"protocol = 'socks5'\n{text}").warnings[0]
    assert configured(text).warnings == []


def never_match(*specs):
    return [later for later, _ in unreachable_rules(specs)]


def to(*patterns, **conditions):
    return RuleSpec(patterns, "direct", **conditions)


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (to("*"), to("a.example")),
        (to("*"), to("10.0.0.0/8")),
        (to(), to(":25")),
        (to("*"), to("*", users=("alice",))),
        (to("*.example"), to("a.example")),
        (to("*.example"), to("A.Example.:25")),
        (to("*.example"), to("*.a.example", protocols=("http",))),
        (to("?.example"), to("a.example")),
        (to("*:1-1023"), to("a.example:25")),
        (to("10.0.0.0/8"), to("10.1.0.0/16", "10.2.3.4")),
        (to("private"), to("10.0.0.0/8")),
        (to("*", users=("alice", "bob")), to("*", users=("bob",))),
        (to("*", sources=("10.0.0.0/8",)), to("*", sources=("10.1.0.0/16",))),
        (to("*", protocols=("http",)), to("*", protocols=("http",), users=("alice",))),
    ],
)
def test_a_rule_that_can_never_match_is_found(first, later):
    assert never_match(first, later) == [later]
    assert never_match(later) == []


@pytest.mark.parametrize(
    ("first", "later"),
    [
        (to("a.example"), to("*")),
        (to("a.example"), to("b.example")),
        (to("*.example"), to("*")),
        (to("?.example"), to("*.example")),
        (to("*.example"), to("10.0.0.0/8")),
        (to("0.0.0.0/0"), to("a.example")),
        (to("0.0.0.0/0"), to("::/0")),
        (to("0.0.0.0/0", "::/0"), to("*")),
        (to("10.1.0.0/16"), to("10.0.0.0/8")),
        (to("*:25"), to("a.example")),
        (to("10.0.0.0/8"), to("10.1.0.0/16", "11.0.0.0/8")),
        (to("*", users=("alice",)), to("*")),
        (to("*", users=("alice",)), to("*", users=("alice", "bob"))),
        (to("*", sources=("10.0.0.0/8",)), to("*", sources=("2001:db8::/32",))),
        (to("*", protocols=("http",)), to("*", users=("alice",))),
    ],
)
def test_a_rule_that_can_match_is_not_warned_about(first, later):
    assert never_match(first, later) == []


def test_a_warning_names_both_rules(configured):
    (warning,) = configured("", "--route", "*=direct", "--route", "*:25=refuse").warnings
    assert warning == "the rule for *:25 can never match: the one for * stands before it"


# --check.


def run(*arguments):
    runner = "from twisted.scripts.twistd import run; run()"
    return subprocess.run(
        [sys.executable, "-c", runner, "-n", "--pidfile=", "socks5ext", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_check_prints_what_would_run(tmp_path):
    path = tmp_path / "gateway.toml"
    users = users_file(tmp_path, "alice")
    path.write_text(f"""
        auth = ["hashed:{users}", "memory:bob:very-secret"]
        connect-timeout = 30
        [[rule]]
        to = "private"
        from = "192.0.2.0/24"
        route = "direct"
        [[rule]]
        to = ":25"
        route = "refuse"
        [[rule]]
        to = "mail.example:25"
        route = {{kind = "tor", endpoint = "tcp:127.0.0.1:9050"}}
    """)
    shown = run("--config", path, "--check")
    assert shown.returncode == 0
    assert "very-secret" not in shown.stdout
    assert shown.stderr == ""
    lines = [line.strip() for line in shown.stdout.splitlines()]
    rules = ["private from 192.0.2.0/24 -> direct", ":25 -> refuse", "mail.example:25 -> tor", "* -> direct"]
    for topic in (
        ["listen:", "tcp:1080:interface=127.0.0.1"],
        ["protocols:", "socks5", "socks4", "http"],
        ["users:", "hashed", "memory"],
        ["rules:", *rules],
        ["limits:", "10 s to handshake", "30 s to connect"],
        ["warning: the rule for mail.example:25 can never match: the one for :25 stands before it"],
    ):
        start = lines.index(topic[0])
        assert lines[start : start + len(topic)] == topic


def test_check_prints_each_fault_on_a_line(tmp_path):
    path = tmp_path / "gateway.toml"
    path.write_text("conect-timeout = 3\nlisten = ['tcp:1080', 'unix:x:mode=9']\n[[rule]]\nroute = 'nowhere'\n")
    shown = run("--config", path, "--check")
    assert shown.returncode == 1
    assert shown.stdout == ""
    lines = shown.stderr.splitlines()
    assert all(line.startswith("socks5ext: ") for line in lines)
    for key in ("conect-timeout", "listen tcp:1080", "listen unix:x:mode=9", "nowhere"):
        assert [line for line in lines if key in line]
    assert len(lines) == 4
    started = run("--config", path)
    assert started.returncode == 1
    assert started.stderr == f"{lines[0]} (and 3 more: --check shows all)\n"


# The start.


def test_the_start_says_what_is_served_and_warns(socks5ext):
    server = socks5ext("--protocol=http", "--route=*=direct", "--route=*:25=refuse", "--max-per-peer=7")
    assert has_written(server, "can never match")
    (line,) = [line for line in server.output.splitlines() if "#info] serves " in line]
    assert f"serves http on tcp:{server.port}:interface=127.0.0.1; users: everybody; " in line
    assert "; rules: * -> direct, *:25 -> refuse, * -> direct; " in line
    assert "7 from one peer" in line
    warnings = [line.partition("#warn] ")[2] for line in server.output.splitlines() if "#warn] " in line]
    assert warnings == ["the rule for *:25 can never match: the one for * stands before it"]
