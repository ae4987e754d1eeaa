"""What of a request is looked at first: the command, whatever stands behind it."""

import pytest
from examples.raw_peers import BIND, GREET_ANONYMOUS, UDP_ASSOCIATE, proxy, request_by_name

IMPOSSIBLE = "1.2.3.999"
"""It ends in a number and is no address, so it is no name of a host either."""


@pytest.mark.parametrize("command", [BIND, UDP_ASSOCIATE, 0x55])
async def test_an_unsupported_command_is_answered_07_whatever_its_address(command):
    async with proxy() as server:
        client = await server.connect()
        client.send(GREET_ANONYMOUS + request_by_name(IMPOSSIBLE, 80, command))
        assert await client.read(2) == b"\x05\x00"
        code, _ = await client.read_reply()
        assert code == 7


async def test_a_name_that_is_none_is_unreachable_where_the_command_is_supported():
    async with proxy() as server:
        assert await server.code(IMPOSSIBLE, 80) == 4
