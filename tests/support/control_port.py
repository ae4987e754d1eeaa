"""A scripted control port of tor on a loopback socket, with as much of the protocol as txtorcon wants."""

from contextlib import asynccontextmanager

from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineReceiver

from support.fake_tor import FakeTor, reply

EVENTS = "CIRC STREAM ORCONN BW HS_DESC STATUS_GENERAL STATUS_CLIENT CONF_CHANGED"


class ControlPort:
    """
    Answers as a tor does that has no authentication.

    :ivar listeners: what it says of its SOCKS ports.
    :ivar delay: seconds by which everything that it says is late.
    :ivar is_stalled: whether it says nothing more, and keeps its connections.
    :ivar cached: the onion addresses whose descriptors it has.
    :ivar commands: all that came.
    """

    def __init__(self):
        self.listeners = ""
        self.delay = 0.0
        self.is_stalled = False
        self.progress = 100
        self.cached = set()
        self.commands = []
        self.connections = []
        self.attached = 0
        self.unsaid = []

    def go_on(self):
        """Be stalled no longer, and say what was held back."""
        self.is_stalled = False
        unsaid, self.unsaid = self.unsaid, []
        for connection, text in unsaid:
            connection._say(text)

    def say(self, *events):
        """Send these events to every attached controller."""
        for connection in self.connections:
            for event in events:
                connection.say(f"650 {event}")

    def answer(self, line):
        """The answer to a command."""
        self.commands.append(line)
        name, _, argument = line.partition(" ")
        if name == "PROTOCOLINFO":
            return '250-PROTOCOLINFO 1\r\n250-AUTH METHODS=NULL\r\n250-VERSION Tor="0.4.9.11"\r\n250 OK'
        if name == "GETINFO":
            return self._info(argument)
        self.attached += name == "SETEVENTS" and "STATUS_CLIENT" in argument
        return "250 OK"

    def _info(self, key):
        known = {
            "signal/names": "RELOAD NEWNYM",
            "version": "0.4.9.11",
            "events/names": EVENTS,
            "status/bootstrap-phase": f'NOTICE BOOTSTRAP PROGRESS={self.progress} TAG=done SUMMARY="Done"',
            "net/listeners/socks": self.listeners,
        }
        if key in known:
            return f"250-{key}={known[key]}\r\n250 OK"
        if key.rpartition("/")[2] in self.cached:
            return f"250+{key}=\r\nhs-descriptor 3\r\n.\r\n250 OK"
        return "551 Not found in cache"


class _Connection(LineReceiver):
    def connectionMade(self):
        self.factory.port.connections.append(self)

    def lineReceived(self, line):
        self.say(self.factory.port.answer(line.decode("ascii")))

    def say(self, text):
        port = self.factory.port
        if port.delay:
            reactor.callLater(port.delay, self._say, text)
        else:
            self._say(text)

    def _say(self, text):
        port = self.factory.port
        if port.is_stalled:
            port.unsaid.append((self, text))
        elif self in port.connections:
            self.sendLine(text.encode("ascii"))

    def connectionLost(self, reason):
        self.factory.port.connections.remove(self)


class ScriptedTor(FakeTor):
    """
    A tor with a SOCKS port and a control port, where each stream does what the test says.

    :param script: called with each stream; a coroutine.
    :ivar control: the control port.
    """

    def __init__(self, script):
        super().__init__(self._begin_stream)
        self.script = script
        self.control = ControlPort()
        self.streams = []

    async def _begin_stream(self, peer, host):
        stream = Stream(self.control, peer, host, len(self.streams) + 1, self.path)
        self.streams.append(stream)
        await self.script(stream)


class Stream:
    """One stream of a `ScriptedTor`."""

    def __init__(self, control, peer, host, number, path):
        self.control = control
        self.peer = peer
        self.host = host
        self.number = number
        self._source = f"{path}:0" if path else f"127.0.0.1:{peer.transport.getPeer().port}"

    def say(self, status, words="", circuit=0):
        """Say a STREAM event."""
        self.control.say(f"STREAM {self.number} {status} {circuit} {self.host}:80 {words}")

    def begin(self):
        """Say that there is a stream."""
        self.say("NEW", f"SOURCE_ADDR={self._source} PURPOSE=USER")

    def directories(self, *answers):
        """Say what directories answer, each to one request: ``RECEIVED``, a failure's reason, or nothing."""
        address = self.host.removesuffix(".onion")
        for number, answer in enumerate(answers):
            directory = f"{address} NO_AUTH ${number:040X}~r{number} descriptor"
            self.control.say(f"HS_DESC REQUESTED {directory}")
            if answer == "RECEIVED":
                self.control.say(f"HS_DESC RECEIVED {directory}")
            elif answer:
                self.control.say(f"HS_DESC FAILED {directory} REASON={answer}")

    def end(self, reason, circuit=0):
        """Say that it failed."""
        self.say("FAILED", reason, circuit)
        self.say("CLOSED", reason, circuit)

    def fail(self, code, *answers, reason="REASON=RESOLVEFAILED", circuit=0):
        """Fail as tor does: the events, then the reply."""
        self.begin()
        self.directories(*answers)
        self.end(reason, circuit)
        self.reply(code)

    def reply(self, code):
        """Send a failing reply, and close."""
        self.peer.send(reply(code))
        self.peer.close()


@asynccontextmanager
async def scripted_tor(script, path=None):
    """
    A `ScriptedTor` that listens.

    :param path: of a unix socket, instead of a TCP port, for SOCKS.
    :ivar route: of a server whose way out it is.
    """
    tor = ScriptedTor(script)
    tor.path = path
    ports = []

    async def listen(description, build, **attributes):
        factory = Factory()
        factory.noisy = False
        for name, value in attributes.items():
            setattr(factory, name, value)
        if build is None:
            factory.protocol = _Connection
        else:
            factory.buildProtocol = build
        ports.append(await serverFromString(reactor, description).listen(factory))
        return ports[-1].getHost()

    socks = await listen(f"unix:{path}" if path else "tcp:0:interface=127.0.0.1", tor.buildProtocol)
    control = await listen("tcp:0:interface=127.0.0.1", None, port=tor.control)
    tor.control.number = control.port
    tor.control.listeners = f'"unix:{path}"' if path else f'"127.0.0.1:{socks.port}"'
    way = f"unix\\:{path}" if path else f"tcp\\:127.0.0.1\\:{socks.port}"
    tor.socks = socks
    tor.route = f"tor:{way}:control=tcp\\:127.0.0.1\\:{control.port}"
    try:
        yield tor
    finally:
        for each in ports:
            await maybeDeferred(each.stopListening)
        await tor.stop()
        for connection in list(tor.control.connections):
            connection.transport.abortConnection()
