"""
Applications that take an endpoint, or its string, with those of ours: see docs/howto/applications.rst.

Each program has both ends, and connects by way of a server of ours that wants a login.
"""

import os
import sys

import pytest
from support.peers import peer, version_of_package
from support.programs import free_port, twistd
from support.targets import programs
from support.ways import listening_on_port
from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred
from twisted.internet.utils import getProcessOutputAndValue
from twisted.spread.pb import Avatar, PBServerFactory
from zope.interface import implementer

from txsocksx_ext import endpoint_string


@pytest.fixture
def server(tmp_path):
    (tmp_path / "users").write_text("alice:right\n")
    with programs() as start:
        yield twistd(start, "--auth", f"file:{tmp_path / 'users'}")


@pytest.fixture
def proxy(server):
    return f"socks5://alice:right@127.0.0.1:{server.port}"


@pytest.fixture
def run(server, proxy, tmp_path):
    """Run a program; return what it prints."""

    async def running(program, *more):
        (tmp_path / "program.py").write_text(program)
        # Some of what these import is deprecated.
        arguments = ["-W", "ignore", "program.py", proxy, *map(str, more)]
        printed, said, status = await getProcessOutputAndValue(sys.executable, arguments, os.environ, str(tmp_path))
        assert status == 0, (printed + said).decode()
        assert "route=direct" in server.output
        return printed.decode()

    return running


AUTOBAHN = """
import sys
from autobahn.twisted import websocket
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString
from twisted.internet.task import react
from txsocksx_ext import endpoint_string

class Echo(websocket.WebSocketServerProtocol):
    def onMessage(self, payload, isBinary):
        self.sendMessage(payload, isBinary)

class Asking(websocket.WebSocketClientProtocol):
    def onOpen(self):
        self.sendMessage(b"x" * 100_000, isBinary=True)

    def onMessage(self, payload, isBinary):
        print(len(payload))
        self.sendClose()

    def onClose(self, wasClean, code, reason):
        self.factory.over.callback(wasClean)

async def main(reactor):
    server = websocket.WebSocketServerFactory()
    server.protocol = Echo
    port = reactor.listenTCP(0, server, interface="127.0.0.1").getHost().port
    client = websocket.WebSocketClientFactory(f"ws://localhost:{port}")
    client.protocol, client.over = Asking, Deferred()
    await clientFromString(reactor, endpoint_string("localhost", port, proxy=sys.argv[1])).connect(client)
    print(await client.over)

react(main)
"""


@peer("autobahn", version_of_package("autobahn"))
async def test_autobahn(run):
    assert await run(AUTOBAHN) == "100000\nTrue\n"


FOOLSCAP = """
import sys
from foolscap.api import Referenceable, Tub
from foolscap.ipb import IConnectionHintHandler
from twisted.internet.endpoints import clientFromString
from twisted.internet.task import react
from zope.interface import implementer
from txsocksx_ext import endpoint_string

@implementer(IConnectionHintHandler)
class Proxied:
    def hint_to_endpoint(self, hint, reactor, update_status):
        _, host, port = hint.split(":")
        return clientFromString(reactor, endpoint_string(host, int(port), proxy=sys.argv[1])), host

class Calculator(Referenceable):
    def remote_add(self, a, b):
        return a + b

async def main(reactor):
    serving, calling = Tub(), Tub()
    serving.listenOn(f"tcp:{sys.argv[2]}:interface=127.0.0.1")
    serving.setLocation(f"tcp:localhost:{sys.argv[2]}")
    calling.removeAllConnectionHintHandlers()
    calling.addConnectionHintHandler("tcp", Proxied())
    for tub in serving, calling:
        tub.startService()
    calculator = await calling.getReference(serving.registerReference(Calculator()))
    print(await calculator.callRemote("add", a=1, b=2))
    for tub in calling, serving:
        await tub.stopService()

react(main)
"""


@peer("foolscap", version_of_package("foolscap"))
async def test_foolscap(run):
    assert await run(FOOLSCAP, free_port()) == "3\n"


LDAPTOR = """
import sys
from ldaptor.inmemory import ReadOnlyInMemoryLDAPEntry
from ldaptor.interfaces import IConnectedLDAPEntry
from ldaptor.protocols.ldap.ldapclient import LDAPClient
from ldaptor.protocols.ldap.ldapconnector import connectToLDAPEndpoint
from ldaptor.protocols.ldap.ldapserver import LDAPServer
from ldaptor.protocols.ldap.ldapsyntax import LDAPEntry
from twisted.internet.protocol import Factory
from twisted.internet.task import react
from twisted.python.components import registerAdapter
from txsocksx_ext import endpoint_string

class Directory(Factory):
    protocol = LDAPServer
    root = ReadOnlyInMemoryLDAPEntry("dc=example", {"objectClass": ["dcObject"], "dc": ["example"]})
    root.addChild("cn=alice", {"objectClass": ["person"], "cn": ["alice"], "sn": ["Liddell"]})

registerAdapter(lambda factory: factory.root, Directory, IConnectedLDAPEntry)

async def main(reactor):
    port = reactor.listenTCP(0, Directory(), interface="127.0.0.1").getHost().port
    client = await connectToLDAPEndpoint(reactor, endpoint_string("localhost", port, proxy=sys.argv[1]), LDAPClient)
    found = await LDAPEntry(client, "dc=example").search(filterText="(cn=alice)")
    print([list(each.get("sn")) for each in found])
    client.unbind()

react(main)
"""


@peer("ldaptor", version_of_package("ldaptor"))
async def test_ldaptor(run):
    assert await run(LDAPTOR) == "[[b'Liddell']]\n"


class Build(Avatar):
    """What a master has for a worker."""

    def perspective_keepalive(self):
        """The worker says that it lives."""


@implementer(IRealm)
class Master:
    def __init__(self):
        self.worker = Deferred()

    def requestAvatar(self, avatarId, mind, *interfaces):
        self.worker.callback((avatarId, mind))
        return interfaces[0], Build(), lambda: None


@pytest.mark.deadline(90)
@peer("buildbot-worker", version_of_package("buildbot-worker"))
async def test_buildbot_worker(proxy, tmp_path):
    master = Master()
    portal = Portal(master, [InMemoryUsernamePasswordDatabaseDontUse(worker=b"password")])
    async with listening_on_port(PBServerFactory(portal)) as port:
        master_string = endpoint_string("localhost", port, proxy=proxy)
        create = ["create-worker", f"--connection-string={master_string}", ".", "unused:1", "worker", "password"]
        command = [sys.executable, "-W", "ignore", "-c", "from buildbot_worker.scripts.runner import run; run()"]
        output, said, status = await getProcessOutputAndValue(
            command[0], [*command[1:], *create], os.environ, str(tmp_path)
        )
        assert status == 0, (output + said).decode()
        with programs() as start:
            start([*command, "start", "--nodaemon", "."], cwd=tmp_path)
            name, worker = await master.worker
            assert name == b"worker"
            assert "version" in await worker.callRemote("getWorkerInfo")
