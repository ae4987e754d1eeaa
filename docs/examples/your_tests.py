"""
Test what you build on this package, without sockets or waiting.

python -m unittest your_tests.py
"""

from twisted.internet.endpoints import connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.trial import unittest

from txsocksx_ext import RouteTable, SOCKS5ClientEndpoint, SOCKS5ExtFactory
from txsocksx_ext.errors import HandshakeTimeout, OnionServiceNotFound
from txsocksx_ext.testing import FakeProxy, FakeRoute, MemoryEndpoint


class ClientTests(unittest.SynchronousTestCase):
    """A program that connects through a proxy."""

    def connect(self, proxy, clock):
        methods = {"extended": {"tor.isolation": "alice"}}
        endpoint = SOCKS5ClientEndpoint("example.onion", 80, proxy.endpoint, methods, reactor=clock)
        connecting = connectProtocol(endpoint, Protocol())
        clock.advance(0)
        return connecting

    def test_it_asks_for_the_right_thing(self):
        clock = Clock()
        proxy = FakeProxy(clock=clock)
        self.successResultOf(self.connect(proxy, clock))
        (conversation,) = proxy.conversations
        assert conversation.pairs["tor.isolation"] == b"alice"
        assert conversation.request.destination.host == "example.onion"

    def test_it_fails_if_the_service_does_not_exist(self):
        clock = Clock()
        connecting = self.connect(FakeProxy(code=0xE0, clock=clock), clock)
        self.failureResultOf(connecting, OnionServiceNotFound)

    def test_it_does_not_wait_forever(self):
        clock = Clock()
        connecting = self.connect(FakeProxy(hangs=True, clock=clock), clock)
        self.assertNoResult(connecting)
        clock.advance(60)
        self.failureResultOf(connecting, HandshakeTimeout)


class ServerTests(unittest.SynchronousTestCase):
    """A server with rules."""

    def test_names_go_where_the_rules_say(self):
        clock = Clock()
        onions, others = FakeRoute(clock=clock), FakeRoute(clock=clock)
        factory = SOCKS5ExtFactory(clock, policy=RouteTable([("*.onion", onions)], default=others))
        proxy_endpoint = MemoryEndpoint(factory, clock=clock)
        endpoint = SOCKS5ClientEndpoint("example.onion", 80, proxy_endpoint, reactor=clock)
        connecting = connectProtocol(endpoint, Protocol())
        clock.advance(0)
        self.successResultOf(connecting)
        assert [request.destination.host for request in onions.requests] == ["example.onion"]
        assert others.requests == []
