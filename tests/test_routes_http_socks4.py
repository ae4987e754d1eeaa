"""The routes ``http`` and ``socks4``, through another server of ours and through scripted proxies."""

import pytest
from examples.raw_peers import CONNECT, GREET_ANONYMOUS, RESOLVE, proxy, request, request_by_name, target
from support.answers import table
from support.programs import free_port
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.internet import reactor

from txsocksx_ext import route_from_string
from txsocksx_ext.server.auth import portal_for

GRANTED = b"\x00\x5a" + bytes(6)
OK = b"HTTP/1.1 200 OK\r\n\r\n"


def through(description):
    return proxy(policy=table(route_from_string(reactor, description)))


@pytest.mark.parametrize(
    "description",
    [
        "http:127.0.0.1:{port}",
        r"http:tcp\:127.0.0.1\:{port}",
        r"http:http\://127.0.0.1\:{port}",
        "http:http://127.0.0.1:{port}",
        "socks4:127.0.0.1:{port}",
        "socks4:socks4a://bob@localhost:{port}/",
        "socks:socks5h://127.0.0.1:{port}",
    ],
)
async def test_a_stream_through_another_proxy(description):
    async with target() as far, proxy() as other, through(description.format(port=other.port)) as server:
        client, code, _ = await server.ask("127.0.0.1", far.port)
        end = await far.accept()
        assert code == 0
        client.send(b"question")
        client.half_close()
        assert await end.read_to_end() == b"question"
        end.send(b"answer")
        end.close()
        assert await client.read_to_end() == b"answer"


@pytest.mark.parametrize(
    ("kind", "asked", "success"),
    [
        ("http", b"CONNECT somewhere.onion:80 HTTP/1.1\r\nHost: somewhere.onion:80\r\n\r\n", OK),
        ("socks4", b"\x04\x01\x00\x50\x00\x00\x00\x01\x00somewhere.onion\x00", GRANTED),
    ],
)
async def test_the_other_proxy_gets_the_name_and_the_client_what_is_joined_to_the_answer(kind, asked, success):
    async with target() as other, through(f"{kind}:127.0.0.1:{other.port}") as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request_by_name("somewhere.onion", 80))
        end = await other.accept()
        assert await end.read(len(asked)) == asked
        end.send(success + b"joined")
        assert await client.read(2) == b"\x05\x00"
        assert (await client.read_reply())[0] == 0
        assert await client.read(6) == b"joined"


@pytest.mark.parametrize(
    ("kind", "answer", "code"),
    [
        ("http", b"HTTP/1.1 403 Forbidden\r\n\r\n", 2),
        ("http", b"HTTP/1.1 404 No such domain\r\n\r\n", 4),
        ("http", b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", 1),
        ("http", b"HTTP/1.1 400 Bad Request\r\n\r\n", 1),
        ("http", b"HTTP/1.1 502 x\r\nProxy-Status: x; error=connection_refused\r\n\r\n", 5),
        ("http", b"HTTP/1.1 504 Gateway Timeout\r\n\r\n", 6),
        ("http", b"HTTP/1.1 503 x\r\nTor-Request-Failed: end/RESOLVEFAILED\r\n\r\n", 4),
        # A client that did not offer 0x97 understands no extended code.
        ("http", b"HTTP/1.1 503 x\r\nTor-Request-Failed: prop304/F4\r\n\r\n", 1),
        ("http", b"HTTP/1.1 503 x\r\nTor-Request-Failed: prop229/FF\r\n\r\n", 1),
        ("http", b"\x05\xff", 1),
        ("http", b"", 1),
        ("socks4", b"\x00\x5b", 1),
        ("socks4", b"\x00\x5d" + bytes(6), 2),
        ("socks4", b"HTTP/1.1 400 Bad Request\r\n\r\n", 1),
        ("socks4", b"", 1),
    ],
)
async def test_a_failure_is_translated(kind, answer, code):
    async with target() as other, through(f"{kind}:127.0.0.1:{other.port}") as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request_by_name("somewhere.onion", 80))
        end = await other.accept()
        await end.read(8)
        end.send(answer)
        end.close()
        assert await client.read(2) == b"\x05\x00"
        assert (await client.read_reply())[0] == code


@pytest.mark.parametrize("kind", ["http", "socks4"])
async def test_another_proxy_that_refuses_connections_says_nothing_of_the_target(kind):
    async with through(f"{kind}:127.0.0.1:{free_port()}") as server:
        assert await server.code("192.0.2.1", 80) == 1


@pytest.mark.parametrize("kind", ["http", "socks4"])
async def test_a_look_up_is_not_supported(kind):
    async with through(f"{kind}:127.0.0.1:{free_port()}") as server:
        assert await server.code("target.example", 0, RESOLVE) == 7


@pytest.mark.parametrize(("kind", "host", "port"), [("http", "a{b.example", 80), ("socks4", "0.0.0.1", 80)])
async def test_a_target_that_the_other_protocol_cannot_carry_is_refused(kind, host, port, logged_errors):
    async with through(f"{kind}:127.0.0.1:{free_port()}") as server:
        client = await server.connect()
        asked = request(host, port, CONNECT) if host == "0.0.0.1" else request_by_name(host, port)
        client.send(GREET_ANONYMOUS + asked)
        assert await client.read(2) == b"\x05\x00"
        assert (await client.read_reply())[0] == 8
    assert logged_errors == []


async def test_the_login_for_an_http_proxy_comes_from_its_description_or_its_url(tmp_path):
    (tmp_path / "password").write_bytes(b"secret:with a colon\nand a second line\n")
    portal = portal_for([InMemoryUsernamePasswordDatabaseDontUse(alice="secret:with a colon")])
    async with target() as far, proxy(portal=portal) as other:
        for login, code in (
            (f"127.0.0.1:{other.port}:username=alice:password-file={tmp_path}/password", 0),
            (f"127.0.0.1:{other.port}:username=bob:password-file={tmp_path}/password", 1),
            (f"http://alice:secret%3Awith%20a%20colon@127.0.0.1:{other.port}", 0),
            (f"http://alice:wrong@127.0.0.1:{other.port}", 1),
            (f"127.0.0.1:{other.port}", 1),
        ):
            async with through(f"http:{login}") as server:
                assert await server.code("127.0.0.1", far.port) == code


@pytest.mark.parametrize(
    ("description", "told"),
    [
        ("http", r"the route http needs an endpoint, as in http:tcp\\:127.0.0.1\\:1080"),
        ("socks4", "the route socks4 needs an endpoint"),
        ("http:127.0.0.1:3128:dialect=tor", "the route http does not know dialect"),
        ("socks4:127.0.0.1:1080:username=bob", "the route socks4 does not know username"),
        ("http:127.0.0.1:3128:username=bob", "username and password-file together"),
        ("http:socks5://127.0.0.1:1080", "speaks HTTP is needed here, and the URL's scheme is socks5"),
        ("socks:http://hunter2:hunter2@127.0.0.1:1080", "speaks SOCKS5 is needed"),
        ("http:http://user:hunter2%0A@127.0.0.1:1080", "control character"),
        ("socks4:socks4a://user:hunter2@127.0.0.1", "SOCKS4 has no passwords"),
        ("socks4:socks4a://a%00b@127.0.0.1", "user id"),
    ],
)
def test_a_faulty_description_is_told(description, told):
    with pytest.raises(ValueError, match=told) as refused:
        route_from_string(reactor, description)
    assert "hunter2" not in str(refused.value)
