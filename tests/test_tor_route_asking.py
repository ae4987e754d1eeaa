"""The route through tor: how it is described, what tor is asked, and look-ups. Tor is scripted."""

import pytest
from examples.raw_peers import (
    GREET_ANONYMOUS,
    GREET_EXTENDED,
    GREET_LOGIN,
    RESOLVE,
    RESOLVE_PTR,
    login,
    pairs,
    proxy,
    request,
)
from support.answers import table
from support.fake_tor import (
    FOUND,
    GREETINGS,
    ONION,
    behind,
    endless_echo,
    events,
    fake_tor,
    hear,
    saying,
    through,
)
from twisted.internet import reactor

from txsocksx_ext import route_from_string
from txsocksx_ext.policy.rules import RuleSpec
from txsocksx_ext.policy.table import table_from_specs

# Descriptions.


@pytest.mark.parametrize(
    "description",
    ["tor:127.0.0.1:{port}", "tor:tcp:127.0.0.1:{port}", "tor:tcp\\:127.0.0.1\\:{port}", "tor:localhost:{port}"],
)
async def test_the_ways_to_write_the_endpoint(description):
    async with fake_tor(endless_echo()) as tor:
        route = route_from_string(reactor, description.format(port=tor.port))
        async with proxy(policy=table(route)) as server:
            assert await server.code("target.example", 80) == 0
    assert tor.asked == ["target.example"]


@pytest.mark.parametrize("description", ["tor:unix:{path}", "tor:unix\\:{path}"])
async def test_tor_may_be_on_a_unix_socket(description, tmp_path):
    async with fake_tor(endless_echo(), listen=f"unix:{tmp_path}/tor") as tor:
        route = route_from_string(reactor, description.format(path=tmp_path / "tor"))
        async with proxy(policy=table(route)) as server:
            assert await server.code("target.example", 80) == 0
    assert tor.asked == ["target.example"]


@pytest.mark.parametrize(
    ("description", "told"),
    [
        ("tor", "SOCKS port"),
        ("tor:9050", "9050"),
        ("tor:nonsense\\:127.0.0.1\\:9050", "nonsense"),
        ("tor:127.0.0.1:9050:extended=maybe", "extended is yes or no"),
        ("tor:127.0.0.1:9050:controls=tcp\\:127.0.0.1\\:9051", "controls; it knows allow-cleartext, control,"),
        ("tor:127.0.0.1:9050:control=nonsense\\:here", "nonsense"),
        ("tor:127.0.0.1:9050:control=tcp\\:127.0.0.1\\:9051,tcp\\:127.0.0.1\\:9052", "1 SOCKS ports and 2 control"),
        ("tor:tcp\\:127.0.0.1\\:1:tcp\\:127.0.0.1\\:2:control=tcp\\:127.0.0.1\\:3", "2 SOCKS ports and 1 control"),
        ("tor:127.0.0.1:9050:control-password-file=/nowhere", "together with control"),
        ("tor:127.0.0.1:9050:control=tcp\\:127.0.0.1\\:9051:control-password-file=/nowhere", "/nowhere: No such file"),
        ("tor:launch:extended=yes", "tor:launch does not know extended; it knows exec, state, torrc"),
        ("tor:launch:control=tcp\\:127.0.0.1\\:9051", "tor:launch does not know control"),
    ],
)
def test_what_is_wrong_with_a_description_is_said(description, told):
    with pytest.raises(ValueError, match=r"^the rule for \*\.onion: ") as caught:
        table_from_specs(reactor, [RuleSpec.of(f"*.onion={description}")])
    assert told in str(caught.value)


def test_of_several_control_ports_the_faulty_one_is_named_and_no_password_in_it():
    faulty = "socks5ext\\:far.example\\:9051\\:username=user\\:password=SECRET\\:timeout=x"
    description = f"tor:tcp\\:127.0.0.1\\:1:tcp\\:127.0.0.1\\:2:control=tcp\\:127.0.0.1\\:3,{faulty}"
    with pytest.raises(ValueError, match=r"control=, endpoint 2 in it: .*timeout") as caught:
        route_from_string(reactor, description)
    assert "SECRET" not in str(caught.value)


def test_an_empty_password_file_is_named(tmp_path):
    (tmp_path / "password").write_bytes(b"\n")
    with pytest.raises(ValueError, match="is empty"):
        route_from_string(
            reactor, f"tor:127.0.0.1:1:control=tcp\\:127.0.0.1\\:2:control-password-file={tmp_path}/password"
        )


def test_a_route_without_control_ports_has_nothing_to_run_and_one_with_them_has_each():
    assert list(route_from_string(reactor, "tor:127.0.0.1:1").service) == []
    two = "tor:tcp\\:127.0.0.1\\:1:tcp\\:127.0.0.1\\:2:control=tcp\\:127.0.0.1\\:3,unix\\:/nowhere"
    assert len(list(route_from_string(reactor, two).service)) == 2
    assert len(list(route_from_string(reactor, "tor:launch").service)) == 1


# What tor is asked.


async def test_a_client_that_says_nothing_of_itself_comes_to_tor_as_it_is():
    async with behind(endless_echo()) as (tor, server):
        for client in GREETINGS:
            peer, code = await hear(server, client, "target.example")
            assert code == 0
            peer.close()
            await peer.lost()
    assert tor.said == [(GREET_ANONYMOUS, b"")] * len(GREETINGS)


async def test_tokens_go_by_tors_own_format():
    async with behind(endless_echo()) as (tor, server):
        said = [
            (GREET_LOGIN, login(b"alice", b"word")),
            (GREET_LOGIN, login(b"alice", b"word")),
            (GREET_LOGIN, login(b"bob", b"word")),
            (GREET_EXTENDED, pairs((b"tor.isolation", b"diary"))),
            (GREET_EXTENDED, pairs((b"USERNAME", b"alice"), (b"PASSWD", b"word"))),
            (GREET_EXTENDED, pairs((b"?tor.isolation", b"diary"))),
        ]
        for greeting, authentication in said:
            peer = await server.connect()
            peer.send(greeting)
            await peer.read(2)
            peer.send(authentication)
            await peer.read(2 if greeting is GREET_LOGIN else 4)
            peer.send(request("target.example", 80))
            assert (await peer.read_reply())[0] == 0
    alice, again, bob, diary, by_pairs, optional = tor.tokens
    assert alice == again == by_pairs
    assert diary == optional
    assert len({alice, bob, diary}) == 3
    for greeting, credentials in tor.said:
        assert greeting == GREET_LOGIN
        # RFC 1929: version, the name of tor's format, and 64 characters that give nothing away.
        assert credentials[:12] == b"\x01\x09<torS0X>0\x40"
        assert len(credentials) == 12 + 64
        assert not any(word in credentials for word in (b"alice", b"bob", b"word", b"diary"))


async def test_all_routes_of_a_process_keep_the_same_clients_together():
    async with fake_tor(endless_echo()) as tor:
        first, second = (route_from_string(reactor, f"tor:127.0.0.1:{tor.port}") for _ in range(2))
        async with proxy(policy=table(first)) as one, proxy(policy=table(second)) as other:
            for server in (one, other):
                peer = await server.connect()
                peer.send(GREET_LOGIN)
                await peer.read(2)
                peer.send(login(b"alice", b"word"))
                await peer.read(2)
                peer.send(request("target.example", 80))
                assert (await peer.read_reply())[0] == 0
    assert len(set(tor.tokens)) == 1


async def test_names_are_handed_on_as_they_came():
    async with behind(endless_echo()) as (tor, server):
        for host in ("Target.Example", f"www.{ONION.upper()}", "localhost"):
            assert await server.code(host, 80) == 0
    assert tor.asked == ["Target.Example", f"www.{ONION.upper()}", "localhost"]


async def test_an_onion_services_name_loses_its_dot_at_the_end():
    """With it tor takes it for a name of the DNS, and has exits look it up."""
    async with behind(endless_echo()) as (tor, server):
        for host in (f"{ONION}.", f"www.{ONION}..", "target.example."):
            assert await server.code(host, 80) == 0
    assert tor.asked == [ONION, f"www.{ONION}", "target.example."]


async def test_data_that_comes_with_tors_reply_reaches_the_client():
    async with behind(endless_echo(FOUND + b"220 hello")) as (_, server):
        peer, code = await hear(server, "97", "target.example")
        assert code == 0
        assert await peer.read(9) == b"220 hello"
        peer.send(b"and back")
        assert await peer.read(8) == b"and back"


# Look-ups.


async def test_resolve_and_resolve_ptr_pass_through():
    address = b"\x00\x01" + bytes((192, 0, 2, 7)) + b"\x00\x00"
    name = b"\x00\x03\x0btarget.test\x00\x00"
    async with behind(saying(b"\x05\x00" + address)) as (tor, server):
        assert (await server.ask("target.test", 0, RESOLVE))[1:] == (0, ("192.0.2.7", 0))
        tor.answer = saying(b"\x05\x00" + name)
        assert (await server.ask("192.0.2.7", 0, RESOLVE_PTR))[1:] == (0, ("target.test", 0))
    assert tor.asked == ["target.test", "\xc0\x00\x02\x07"]


@pytest.mark.parametrize("host", ["missing.test", ONION])
@pytest.mark.parametrize("control", [False, True])
async def test_a_look_up_that_fails_comes_with_address_type_0(host, control):
    failure = b"\x05\x04\x00\x00" + b"\x00" * 6
    async with fake_tor(saying(failure)) as tor:
        route = through(tor, control=events() if control else None)
        async with proxy(policy=table(route)) as server:
            for client in GREETINGS:
                peer, code = await hear(server, client, host, 0, RESOLVE)
                assert code == 4
                assert await peer.read_to_end() == b""
