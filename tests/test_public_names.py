"""What developers see of the package at a prompt: its names, and its numbers as the documentation writes them."""

import json
import pickle

import pytest
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock

import txsocksx_ext
import txsocksx_ext.pt
from txsocksx_ext import SOCKS5ClientEndpoint, errors
from txsocksx_ext.failures import authentication_error, reply_error
from txsocksx_ext.protocol.codes import Command, Dialect, Method
from txsocksx_ext.testing import FakeProxy, FakeRoute, connect_to


@pytest.mark.parametrize("module", [txsocksx_ext, txsocksx_ext.pt])
def test_the_public_names_are_listed(module):
    assert set(module.__all__) <= set(dir(module))
    assert "errors" in dir(txsocksx_ext)  # a module that was imported is listed too


def shown(number):
    return f"{number}", str(number), f"{number:02x}", f"{number:d}"


async def test_the_method_that_a_proxy_selected_prints_in_hexadecimal():
    addresses = []

    class Application(Factory):
        def buildProtocol(self, addr):
            addresses.append(addr)
            return Protocol()

    for methods in ({"anonymous": ()}, {"extended": {"club.card": "7"}}):
        await SOCKS5ClientEndpoint("example.com", 80, FakeProxy().endpoint, methods).connect(Application())
    plain, extended = (address.method for address in addresses)
    assert shown(plain) == ("0x00", "0x00", "00", "0")
    assert shown(extended) == ("0x97", "0x97", "97", "151")
    assert repr(extended) == "<Method.EXTENDED: 0x97>"
    assert (extended, extended + 1) == (0x97, 0x98)
    assert isinstance(extended, int)


async def test_the_code_of_a_failure_prints_in_hexadecimal():
    proxy = FakeProxy(method=Method.EXTENDED, code=0xF0)
    endpoint = SOCKS5ClientEndpoint("example.com", 80, proxy.endpoint, {"extended": {}})
    with pytest.raises(errors.TransportTemporaryFailure) as failed:
        await endpoint.connect(Factory.forProtocol(Protocol))
    code = failed.value.code
    assert shown(code) == ("0xF0", "0xF0", "f0", "240")
    assert repr(code) == "0xF0"
    assert (code, code + 1, json.dumps(code), hash(code)) == (240, 241, "240", hash(240))
    assert repr(pickle.loads(pickle.dumps(code))) == "0xF0"


def test_the_codes_of_classes_and_unknown_codes_print_in_hexadecimal():
    assert str(errors.OnionServiceNotFound.code) == "0xE0"
    unknown = reply_error(0x5D, Dialect.PLAIN)
    assert str(unknown.code) == "0x5D"
    assert "0x5D" in str(unknown)


def test_a_status_prints_in_hexadecimal():
    error = authentication_error(Method.EXTENDED, 0x5D)
    assert (str(error.status), error.status) == ("0x5D", 0x5D)
    assert "0x5D" in str(error)


def test_what_a_client_asked_a_server_for_prints_in_hexadecimal():
    ended = []

    class Server(txsocksx_ext.SOCKS5ExtFactory):
        def reply_for(self, failure, session):
            ended.append(session)
            return super().reply_for(failure, session)

    clock = Clock()
    route = FakeRoute(clock=clock, failure=errors.ConnectionRefused())
    client = connect_to(Server(clock, policy=txsocksx_ext.RouteTable((), route)))
    client.write(bytes.fromhex("0501 00  0501 00 01 C0000201 0050"))
    (session,) = ended
    assert (str(session.method), str(session.request.command), str(session.reply_code)) == ("0x00", "0x01", "0x05")
    assert session.request.command == Command.CONNECT == 1
