"""
Real clients of SOCKS4, SOCKS5 and HTTP CONNECT at one listener: 200 KB there, the end, and an answer to it.
"""

import asyncio
import socket
import subprocess

import pytest
from python_socks import ProxyError
from python_socks.async_.asyncio import Proxy as AsyncProxy
from python_socks.sync import Proxy
from support.https import https_files
from support.programs import free_port, has_written, need, twistd
from support.targets import (
    PAGE,
    PATIENCE,
    Target,
    answer_the_end,
    content,
    curl,
    digest,
    programs,
    read_exactly,
    read_to_end,
    run,
)

SENT = content(4)


@pytest.fixture(scope="module")
def server():
    """Lets everyone in, by each protocol."""
    with programs() as start:
        yield twistd(start)


@pytest.fixture(scope="module")
def guarded():
    """Lets in only one user."""
    with programs() as start:
        yield twistd(start, "--auth=memory:alice:right")


def ncat(proxy, target, protocol, *options):
    return [need("ncat"), "--proxy", f"127.0.0.1:{proxy}", "--proxy-type", protocol, *options, "127.0.0.1", target]


def socat(proxy, target, address):
    return [need("socat"), "-t", PATIENCE, "-", address.format(proxy=proxy, target=target)]


def netcat(proxy, target, protocol):
    # -N: end what is sent at the end of the input.
    return [
        *(need("nc.openbsd", "netcat-openbsd"), "-N", "-X", protocol, "-x", f"127.0.0.1:{proxy}"),
        *("127.0.0.1", target),
    ]


def connect_proxy(proxy, target, *options):
    return [need("connect-proxy"), *options, f"127.0.0.1:{proxy}", "127.0.0.1", target]


def proxychains(proxy, target, folder, line):
    config = folder / "proxychains.conf"
    config.write_text(f"strict_chain\nproxy_dns\n[ProxyList]\n{line.format(proxy=proxy)}\n")
    command = [need("nc.openbsd", "netcat-openbsd"), "-N", "127.0.0.1", target]
    return [need("proxychains4"), "-q", "-f", config, *command]


TUNNELS = {
    "ncat http": ("http", lambda proxy, target, _: ncat(proxy, target, "http")),
    "ncat socks4": ("socks4", lambda proxy, target, _: ncat(proxy, target, "socks4")),
    "ncat socks5": ("socks5", lambda proxy, target, _: ncat(proxy, target, "socks5")),
    "socat PROXY": ("http", lambda *at: socat(*at[:2], "PROXY:127.0.0.1:localhost:{target},proxyport={proxy}")),
    "socat SOCKS4": ("socks4", lambda *at: socat(*at[:2], "SOCKS4:127.0.0.1:127.0.0.1:{target},socksport={proxy}")),
    "socat SOCKS4A": ("socks4", lambda *at: socat(*at[:2], "SOCKS4A:127.0.0.1:localhost:{target},socksport={proxy}")),
    "nc connect": ("http", lambda *at: netcat(*at[:2], "connect")),
    "nc 4": ("socks4", lambda *at: netcat(*at[:2], "4")),
    "nc 5": ("socks5", lambda *at: netcat(*at[:2], "5")),
    "connect-proxy http": ("http", lambda *at: connect_proxy(*at[:2], "-H")),
    "connect-proxy socks4": ("socks4", lambda *at: connect_proxy(*at[:2], "-4", "-S")),
    "connect-proxy socks5": ("socks5", lambda *at: connect_proxy(*at[:2], "-S")),
    "proxychains http": ("http", lambda *at: proxychains(*at, "http 127.0.0.1 {proxy}")),
    "proxychains socks4": ("socks4", lambda *at: proxychains(*at, "socks4 127.0.0.1 {proxy}")),
    "proxychains socks5": ("socks5", lambda *at: proxychains(*at, "socks5 127.0.0.1 {proxy}")),
}


@pytest.mark.parametrize(("protocol", "command"), TUNNELS.values(), ids=TUNNELS)
def test_a_program_sends_all_and_its_end_and_gets_the_answer(server, tmp_path, protocol, command):
    with Target(answer_the_end) as target:
        done = run(*command(server.port, target.port, tmp_path), given=SENT)
        assert target.next_result() == SENT
    assert (done.returncode, done.stdout) == (0, digest(SENT)), done.stderr
    assert has_written(server, f"127.0.0.1 CONNECT protocol={protocol} ")


def answer_so_many(connection):
    """Answer as many bytes as the tests send, before their end."""
    received = read_exactly(connection, len(SENT))
    connection.sendall(digest(received))
    return received + read_to_end(connection)


@pytest.mark.parametrize("is_guarded", [False, True])
def test_corkscrew_which_has_no_half_close(server, guarded, tmp_path, is_guarded):
    proxy, options = (guarded, [tmp_path / "login"]) if is_guarded else (server, [])
    (tmp_path / "login").write_text("alice:right\n")
    with Target(answer_so_many) as target:
        command = [need("corkscrew"), "127.0.0.1", proxy.port, "127.0.0.1", target.port, *options]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen([str(part) for part in command], **pipes) as process:
            process.stdin.write(SENT)
            process.stdin.flush()
            assert process.stdout.read(64) == digest(SENT)
            process.stdin.close()
        assert target.next_result() == SENT


LOGINS = {
    "ncat http": lambda *at: ncat(*at[:2], "http", "--proxy-auth", "alice:right"),
    "ncat socks5": lambda *at: ncat(*at[:2], "socks5", "--proxy-auth", "alice:right"),
    "socat PROXY": lambda *at: socat(
        *at[:2], "PROXY:127.0.0.1:localhost:{target},proxyport={proxy},proxyauth=alice:right"
    ),
    "proxychains http": lambda *at: proxychains(*at, "http 127.0.0.1 {proxy} alice right"),
    "proxychains socks5": lambda *at: proxychains(*at, "socks5 127.0.0.1 {proxy} alice right"),
}


@pytest.mark.parametrize("command", LOGINS.values(), ids=LOGINS)
def test_a_program_logs_in(guarded, tmp_path, command):
    with Target(answer_the_end) as target:
        done = run(*command(guarded.port, target.port, tmp_path), given=SENT)
        assert (done.returncode, done.stdout) == (0, digest(SENT)), done.stderr
        assert target.next_result() == SENT


@pytest.mark.parametrize("name", ["ncat socks4", "socat SOCKS4A", "socat PROXY", "nc connect", "nc 4"])
def test_a_program_without_credentials_is_refused(guarded, tmp_path, name):
    with Target(answer_the_end) as target:
        done = run(*TUNNELS[name][1](guarded.port, target.port, tmp_path), given=SENT)
        assert done.returncode != 0
        assert done.stdout == b""
        assert target.peers == []


# curl, wget, git


@pytest.mark.parametrize("scheme", ["socks5h", "socks4", "socks4a", "http"])
@pytest.mark.parametrize("login", ["", "alice:right@"])
def test_curl_moves_a_page_and_a_form(server, guarded, web_port, scheme, login):
    # SOCKS4 has no password: the user goes along, and means nothing.
    port = guarded.port if login and not scheme.startswith("socks4") else server.port
    proxy = ("--proxytunnel", "--proxy", f"{scheme}://{login}127.0.0.1:{port}")
    fetched = curl(*proxy, f"http://127.0.0.1:{web_port}/")
    assert (fetched.returncode, fetched.stdout) == (0, PAGE), fetched.stderr
    posted = curl(*proxy, f"http://localhost:{web_port}/", "--data-binary", "@-", given=SENT)
    assert (posted.returncode, posted.stdout) == (0, SENT), posted.stderr


def test_curl_asks_first_and_logs_in_then(guarded, web_port):
    proxy = ("--proxytunnel", "--proxy-anyauth", "--proxy", f"http://alice:right@127.0.0.1:{guarded.port}")
    fetched = curl(*proxy, f"http://127.0.0.1:{web_port}/")
    assert (fetched.returncode, fetched.stdout) == (0, PAGE), fetched.stderr


@pytest.mark.parametrize(
    ("scheme", "said"),
    [("http", b"CONNECT tunnel failed, response 407"), ("socks4a", b"(91)"), ("socks5h", b"")],
)
def test_curl_with_a_wrong_password_is_told(guarded, web_port, scheme, said):
    failed = curl(
        "--proxytunnel", "--proxy", f"{scheme}://alice:wrong@127.0.0.1:{guarded.port}", f"http://127.0.0.1:{web_port}/"
    )
    assert failed.returncode != 0
    assert said in failed.stderr


def test_curl_is_told_why_a_target_was_not_reached(server):
    proxy = ("--proxytunnel", "--proxy", f"http://127.0.0.1:{server.port}")
    failed = curl(*proxy, f"http://127.0.0.1:{free_port()}/")
    assert b"CONNECT tunnel failed, response 502" in failed.stderr
    failed = curl("--proxy", f"socks4a://127.0.0.1:{server.port}", f"http://127.0.0.1:{free_port()}/")
    assert b"(91)" in failed.stderr


@pytest.fixture
def site(authority, tmp_path):
    """A folder, the port that serves it by HTTPS, and the certificate of the authority."""
    pem = authority.trusted_server(tmp_path)
    folder = tmp_path / "site"
    folder.mkdir()
    with https_files(folder, pem) as port:
        yield folder, port, tmp_path / "trusted" / "authority.pem"


@pytest.mark.parametrize("login", ["", "alice:right@"])
def test_wget_fetches_by_https(server, guarded, site, login):
    folder, port, trusted = site
    (folder / "file").write_bytes(SENT)
    proxy = f"http://{login}127.0.0.1:{(guarded if login else server).port}"
    fetched = run(
        *(need("wget"), "--quiet", "--tries=1", "--output-document=-", f"--ca-certificate={trusted}", "--no-config"),
        *("-e", f"https_proxy={proxy}", f"https://localhost:{port}/file"),
    )
    assert (fetched.returncode, fetched.stdout) == (0, SENT), fetched.stderr


@pytest.mark.parametrize("scheme", ["http", "socks4a", "socks5h"])
def test_git_clones_by_https(server, site, tmp_path, scheme):
    folder, port, trusted = site
    source = tmp_path / "source"

    def git(*arguments):
        # The variable goes before the setting of the same meaning.
        command = ["env", f"GIT_SSL_CAINFO={trusted}", need("git"), "-c", "user.name=a", "-c", "user.email=a@example"]
        done = run(*command, *arguments)
        assert done.returncode == 0, done.stderr

    git("init", "--quiet", source)
    (source / "file").write_bytes(SENT)
    git("-C", source, "add", "file")
    git("-C", source, "commit", "--quiet", "--message=all")
    git("clone", "--quiet", "--bare", source, folder / "all.git")
    git("-C", folder / "all.git", "update-server-info")
    git(
        "-c",
        f"http.proxy={scheme}://127.0.0.1:{server.port}",
        "clone",
        "--quiet",
        f"https://localhost:{port}/all.git",
        tmp_path / "copy",
    )
    assert (tmp_path / "copy" / "file").read_bytes() == SENT


def test_curl_reaches_the_proxy_by_tls(socks5ext, authority, web_port, tmp_path):
    pem, port = authority.trusted_server(tmp_path), free_port()
    server = socks5ext("--auth=memory:alice:right", listen=[f"ssl:{port}:privateKey={pem}:interface=127.0.0.1"])
    assert has_written(server, f"starting on {port}")
    proxy = ("--proxytunnel", "--proxy", f"https://alice:right@localhost:{port}")
    trust = ("--proxy-cacert", tmp_path / "trusted" / "authority.pem")
    posted = curl(*proxy, *trust, f"http://127.0.0.1:{web_port}/", "--data-binary", "@-", given=SENT)
    assert (posted.returncode, posted.stdout) == (0, SENT), posted.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_curl_uses_the_protocols_that_are_served(socks5ext, web_port, workers):
    server = socks5ext("--protocol", "http", "--protocol", "socks4", "--workers", workers)
    page = f"http://127.0.0.1:{web_port}/"
    for scheme in ("http", "socks4a"):
        fetched = curl("--proxytunnel", "--proxy", f"{scheme}://127.0.0.1:{server.port}", page)
        assert (fetched.returncode, fetched.stdout) == (0, PAGE), fetched.stderr
    assert curl("--proxy", f"socks5h://127.0.0.1:{server.port}", page).returncode != 0


# python-socks


def exchange(connection):
    """Send, end, and return the answer."""
    connection.settimeout(PATIENCE)
    connection.sendall(SENT)
    connection.shutdown(socket.SHUT_WR)
    return read_to_end(connection)


@pytest.mark.parametrize(
    ("scheme", "resolves_there"),
    [("socks5", True), ("socks5", False), ("socks4", True), ("socks4", False), ("http", True)],
)
def test_python_socks(server, scheme, resolves_there):
    proxy = Proxy.from_url(f"{scheme}://127.0.0.1:{server.port}", rdns=resolves_there)
    with Target(answer_the_end) as target, proxy.connect("localhost", target.port, timeout=PATIENCE) as connection:
        assert exchange(connection) == digest(SENT)


@pytest.mark.parametrize("scheme", ["socks5", "http"])
def test_python_socks_logs_in(guarded, scheme):
    proxy = Proxy.from_url(f"{scheme}://alice:right@127.0.0.1:{guarded.port}")
    with Target(answer_the_end) as target, proxy.connect("127.0.0.1", target.port, timeout=PATIENCE) as connection:
        assert exchange(connection) == digest(SENT)


@pytest.mark.parametrize(("scheme", "code"), [("socks5", 5), ("socks4", 0x5B), ("http", 502)])
def test_python_socks_is_told_of_a_refusal(server, scheme, code):
    proxy = Proxy.from_url(f"{scheme}://127.0.0.1:{server.port}")
    with pytest.raises(ProxyError) as caught:
        proxy.connect("127.0.0.1", free_port(), timeout=PATIENCE)
    assert caught.value.error_code == code


@pytest.mark.parametrize("scheme", ["socks5", "socks4", "http"])
def test_python_socks_of_asyncio(server, scheme):
    async def main(port):
        connection = await AsyncProxy.from_url(f"{scheme}://127.0.0.1:{server.port}").connect("127.0.0.1", port)
        connection.setblocking(True)
        with connection:
            return exchange(connection)

    with Target(answer_the_end) as target:
        assert asyncio.run(main(target.port)) == digest(SENT)


# haproxy, which knows no other proxy protocol than SOCKS4 for its servers


def test_haproxy_reaches_its_server_through_us(server, program, tmp_path):
    front = free_port()
    config = tmp_path / "haproxy.cfg"
    with Target(answer_the_end) as target:
        config.write_text(
            f"""
defaults
    mode tcp
    timeout connect 20s
    timeout client 20s
    timeout server 20s
listen front
    bind 127.0.0.1:{front}
    server back 127.0.0.1:{target.port} socks4 127.0.0.1:{server.port}
"""
        )
        program([need("haproxy"), "-db", "-f", config], port=front)
        with socket.create_connection(("127.0.0.1", front)) as connection:
            assert exchange(connection) == digest(SENT)
