"""Rules as tests write them, who goes by them, and a proxy that has them."""

from examples.raw_peers import ReactorWith, proxy
from twisted.internet.address import IPv4Address

from txsocksx_ext import RouteTable, Session
from txsocksx_ext.protocol.messages import Address
from txsocksx_ext.route.base import Route
from txsocksx_ext.route.direct import DirectRoute
from txsocksx_ext.route.refuse import RefuseRoute

OWN, DEFAULT = Route(), Route()

REMOTE = IPv4Address("TCP", "198.51.100.1", 5000)
"""A client elsewhere. Nothing is ever sent there."""
LOCAL = IPv4Address("TCP", "127.0.0.1", 5000)


def goes(patterns, host, port=80, peer=LOCAL):
    """Whether a target goes by one of the patterns, and not by the default."""
    table = RouteTable([(pattern, OWN) for pattern in patterns], DEFAULT)
    return table.route_of(Address.of(host, port), Session(peer, table)).route is OWN


def server_of(rules, names, **options):
    """A proxy with these rules: each a pattern, and ``direct`` or ``refuse``."""
    with_names = ReactorWith(names=names)
    direct, refuse = DirectRoute(with_names), RefuseRoute()
    table = RouteTable([(pattern, {"direct": direct, "refuse": refuse}[way]) for pattern, way in rules], direct)
    return proxy(reactor=with_names, policy=table, **options)
