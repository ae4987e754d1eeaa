"""Keys of client authorization, as `txsocksx_ext.tor` gives them to tor. The control connection is in memory."""

import base64

import pytest
from support.tor_programs import ONION, SERVICE, FakeControl, FakeTor, controlled_tor
from txtorcon.torcontrolprotocol import TorDisconnectError

from txsocksx_ext.tor import (
    add_client_authorization,
    remove_client_authorization,
)


@pytest.fixture
def controlled():
    with controlled_tor() as tor:
        yield tor


class RefusingControl:
    def queue_command(self, command):
        raise AssertionError(f"tor was told {command}")


class TestClientAuthorization:
    KEY = bytes(range(32))
    AS_BASE64 = base64.b64encode(KEY).decode()

    @pytest.mark.parametrize(
        "given",
        [
            KEY,
            AS_BASE64,
            AS_BASE64.encode(),
            AS_BASE64.rstrip("="),
            base64.b32encode(KEY).decode(),
            base64.b32encode(KEY).decode().rstrip("=").lower(),
            f" {AS_BASE64}\n",
        ],
        ids=["bytes", "base64", "base64 bytes", "unpadded", "base32", "lower base32", "with space"],
    )
    @pytest.mark.parametrize("address", [ONION, SERVICE, ONION.upper()])
    async def test_key_and_address(self, controlled, given, address):
        await add_client_authorization(controlled, address, given)
        assert controlled.protocol.commands == [f"ONION_CLIENT_AUTH_ADD {SERVICE} x25519:{self.AS_BASE64}"]

    async def test_name_and_permanent(self, controlled):
        await add_client_authorization(controlled, ONION, self.KEY, name="me", permanent=True)
        (command,) = controlled.protocol.commands
        assert command.endswith(" ClientName=me Flags=Permanent")

    @pytest.mark.parametrize("key", [b"", b"short", "x" * 42, KEY + b"\x00", "ключ", AS_BASE64 + "AAAA"])
    async def test_no_key(self, key):
        with pytest.raises(ValueError, match="private key") as raised:
            await add_client_authorization(FakeTor(RefusingControl()), ONION, key)
        assert not key or str(key) not in str(raised.value)

    @pytest.mark.parametrize("name", ["", "two words", "x" * 17, "line\r\nQUIT"])
    async def test_no_name(self, name):
        with pytest.raises(ValueError, match="name of a key"):
            await add_client_authorization(FakeTor(RefusingControl()), ONION, self.KEY, name=name)

    @pytest.mark.parametrize("address", ["", "example.com", SERVICE[1:], f"www.{ONION}", f"{SERVICE}\r\nQUIT"])
    async def test_no_address(self, address):
        for change in (
            add_client_authorization(FakeTor(RefusingControl()), address, self.KEY),
            remove_client_authorization(FakeTor(RefusingControl()), address),
        ):
            with pytest.raises(ValueError, match="onion service"):
                await change

    async def test_the_control_connection_was_lost(self):
        control = FakeControl()
        control.disconnect()
        for change in (
            add_client_authorization(FakeTor(control), ONION, self.KEY),
            remove_client_authorization(FakeTor(control), ONION),
        ):
            with pytest.raises(TorDisconnectError, match="lost"):
                await change
        assert control.commands == []

    async def test_remove(self, controlled):
        await remove_client_authorization(controlled, ONION)
        assert controlled.protocol.commands == [f"ONION_CLIENT_AUTH_REMOVE {SERVICE}"]
