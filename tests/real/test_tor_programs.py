"""`txsocksx_ext.tor` with a real `txtorcon.Tor`: streams, pages, look-ups, isolation, client authorization."""

import pytest
import pytest_twisted
import treq
import txtorcon
from support.streams import COOKIE_IS_LEFT_OPEN, attached, detach, endpoint_at, error_of, watched
from support.tornet import ECHO_PORT, WEB_PORT, bad_checksum, never_published
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from txsocksx_ext.errors import (
    HostUnreachable,
    OnionClientAuthRequired,
    OnionClientAuthWrong,
    OnionDescriptorNotFound,
    OnionServiceNotFound,
    OnionServiceNotReachable,
)
from txsocksx_ext.tor import (
    SHARED,
    add_client_authorization,
    remove_client_authorization,
    resolve,
    resolve_ptr,
    stream_via,
    web_agent,
)

pytestmark = pytest.mark.filterwarnings(COOKIE_IS_LEFT_OPEN)


@pytest.fixture(scope="module")
def tor(tor_network):
    context = attached(tor_network.client)
    yield pytest_twisted.blockon(Deferred.fromCoroutine(context.__aenter__()))
    pytest_twisted.blockon(Deferred.fromCoroutine(context.__aexit__(None, None, None)))


async def test_a_page_of_an_onion_service(tor, tor_network):
    response = await treq.get(f"http://{tor_network.onion}/there", agent=web_agent(tor))
    assert await response.text() == f"the page /there of {tor_network.onion}\n"


async def test_a_page_that_is_not_there(tor):
    with pytest.raises(OnionServiceNotFound):
        await treq.get(f"http://{never_published()}/", agent=web_agent(tor))


async def test_look_ups(tor):
    assert await resolve(tor, "echo.test") == "127.0.0.1"
    assert await resolve_ptr(tor, "192.0.2.1") == "echo.test"
    for look_up in (resolve(tor, "missing.test"), resolve_ptr(tor, "192.0.2.2")):
        with pytest.raises(HostUnreachable):
            await look_up


class TestIsolation:
    """As tor's events show it."""

    @pytest.fixture
    def circuits(self, tor_network):
        with watched(tor_network.client) as circuits:
            yield circuits

    @pytest.fixture
    def target(self, tor_network):
        # Through an exit, a token's streams move to another circuit when tor has made a pair of them (conflux).
        return tor_network.onion, ECHO_PORT

    async def test_each_endpoint_has_circuits_of_its_own_through_exits_too(self, tor, tor_network, circuits):
        target = ("echo.test", tor_network.servers.echo_port)
        assert len({await circuits.of(stream_via(tor, *target)) for _ in range(3)}) == 3

    async def test_each_endpoint_has_circuits_of_its_own(self, tor, target, circuits):
        one, other = (stream_via(tor, *target) for _ in range(2))
        first, second, third = [await circuits.of(each) for each in (one, other, one)]
        assert first != second
        assert third == first

    async def test_one_token_shares_circuits_and_another_does_not(self, tor, target, circuits):
        made = [stream_via(tor, *target, isolation=each) for each in ("a", "a", "b")]
        first, second, third = [await circuits.of(each) for each in made]
        assert second == first
        assert third != first

    async def test_txtorcon_shares_circuits_and_so_do_shared_streams(self, tor, tor_network, target, circuits):
        socks = endpoint_at(tor_network.client.plain_port)
        theirs = [tor.stream_via(*target, socks_endpoint=socks) for _ in range(2)]
        ours = [stream_via(tor, *target, isolation=SHARED) for _ in range(2)]
        assert len({await circuits.of(each) for each in [*theirs, *ours]}) == 1

    async def test_each_agent_has_circuits_of_its_own(self, tor, tor_network, circuits):
        url = f"http://{tor_network.onion}:{WEB_PORT}/"

        async def fetch(agent):
            await treq.get(url, agent=agent, persistent=False).addCallback(treq.content)
            return await deferToThread(circuits.of_next_stream)

        one, other = web_agent(tor), web_agent(tor)
        first, second, third = [await fetch(each) for each in (one, other, one)]
        assert first != second
        assert third == first


class TestClientAuthorization:
    async def test_a_key_is_needed_wrong_right_and_removed(self, tor, tor_network):
        endpoint = stream_via(tor, tor_network.locked_onion, ECHO_PORT)
        address, right, wrong = tor_network.locked_onion, tor_network.right_key, tor_network.wrong_key

        async def error():
            error = await error_of(endpoint)
            # When tor has asked all directories about a service that it cannot decrypt, it says 04 once.
            return await error_of(endpoint) if type(error) is OnionServiceNotReachable else error

        assert type(await error()) is OnionClientAuthRequired
        await add_client_authorization(tor, address, wrong.private)
        assert type(await error()) is OnionClientAuthWrong
        await add_client_authorization(tor, address, right.private, name="friend")
        assert await error() is None
        assert "ClientName=friend" in await tor.protocol.queue_command("ONION_CLIENT_AUTH_VIEW")
        await remove_client_authorization(tor, address)
        assert right.private not in await tor.protocol.queue_command("ONION_CLIENT_AUTH_VIEW")

    async def test_an_address_that_tor_does_not_take(self, tor, tor_network):
        with pytest.raises(txtorcon.TorProtocolError, match="Invalid v3 address"):
            await add_client_authorization(tor, bad_checksum(), tor_network.right_key.private)


@pytest.mark.deadline(180)
async def test_a_stopped_service_at_our_own_deadline(tor, tor_network):
    await deferToThread(tor_network.revive_service)
    tor_network.stop_service()
    try:
        error = await error_of(stream_via(tor, tor_network.mortal_onion, ECHO_PORT, timeout=2))
        assert isinstance(error, OnionServiceNotReachable)
    finally:
        tor_network.continue_service()


async def test_when_the_control_connection_is_gone(tor_network):
    """Then tor's reply has to do."""
    client = tor_network.client
    async with attached(client) as tor:

        async def errors():
            ports = endpoint_at(client.extended_port), endpoint_at(client.plain_port)
            made = [stream_via(tor, never_published(), ECHO_PORT, socks_endpoint=each) for each in ports]
            return [type(await error_of(each)) for each in made]

        assert await errors() == [OnionDescriptorNotFound] * 2
        await detach(tor)
        assert await errors() == [OnionDescriptorNotFound, HostUnreachable]
