"""
Calls into the package for one CONNECT, from accept to close: how many, in how many files, and how often control
moves from one file to another.

    PYTHONPATH=tests python -m bench.calls direct|socks|client [FOLDER]

FOLDER is another checkout to count. A coroutine or generator that is resumed is not counted again.
"""

import argparse
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path


def count(events):
    """The number of calls, the functions, the files, and the moves between files."""
    files = [name for name, _ in events]
    moves = sum(before != after for before, after in pairwise(files))
    return len(events), len(set(events)), len(set(files)), moves


class Recorder:
    """
    Notes each call of a function of the package, while it is `on`.

    :param root: the package's folder.
    """

    def __init__(self, root):
        self._root = str(root) + "/"
        self._begun = set()
        self.events = []

    def __call__(self, frame, event, argument):
        if event != "call":
            return
        code = frame.f_code
        if not code.co_filename.startswith(self._root) or code.co_name == "<genexpr>":
            return
        # Flags of coroutines and generators: the frame is the same each time that it is resumed.
        if code.co_flags & 0x1A0:
            if id(frame) in self._begun:
                return
            self._begun.add(id(frame))
        self.events.append((code.co_filename[len(self._root) :], code.co_name))


def main():
    parser = argparse.ArgumentParser(prog="bench.calls", description=__doc__)
    parser.add_argument("which", choices=["direct", "socks", "client"])
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parents[2])
    parser.add_argument("--list", action="store_true", help="print each call")
    options = parser.parse_args()
    sys.path.insert(0, str(options.folder.resolve()))

    from twisted.internet import reactor
    from twisted.internet.endpoints import TCP4ClientEndpoint
    from twisted.internet.protocol import Factory, Protocol

    import txsocksx_ext

    root = Path(txsocksx_ext.__file__).parent
    assert root.is_relative_to(options.folder.resolve()), root
    from txsocksx_ext import RouteTable, SOCKS5ClientEndpoint, SOCKS5ExtFactory, route_from_string

    try:
        from txsocksx_ext.net.listening import polled
    except ImportError:
        from txsocksx_ext.sockets.listening import polled

    class Echo(Protocol):
        def dataReceived(self, data):
            self.transport.write(data)

    class Client(Protocol):
        """A plain SOCKS5 client."""

        got = b""

        def connectionMade(self):
            self.transport.write(b"\5\1\0")

        def dataReceived(self, data):
            self.got += data
            if self.got == b"\5\0":
                self.transport.write(b"\5\1\0\1\x7f\0\0\1" + target.getHost().port.to_bytes(2, "big"))
            elif len(self.got) == 12:
                self.transport.write(b"x")
            elif len(self.got) == 13:
                self.transport.loseConnection()

        def connectionLost(self, reason):
            reactor.callLater(0.2, ended)

    class Application(Protocol):
        def connectionMade(self):
            self.transport.write(b"x")

        def dataReceived(self, data):
            self.transport.loseConnection()

        def connectionLost(self, reason):
            reactor.callLater(0.2, ended)

    recorder = Recorder(root)
    runs = []

    def ended():
        sys.setprofile(None)
        runs.append(recorder.events)
        recorder.events = []
        recorder._begun = set()
        if len(runs) < 3:
            reactor.callLater(0.1, begin)
        else:
            reactor.stop()

    def server(route):
        table = RouteTable((), route_from_string(reactor, route))
        try:
            factory = SOCKS5ExtFactory(reactor, policy=table)
        except TypeError:
            factory = SOCKS5ExtFactory(reactor, routes=table)
        return polled(reactor.listenTCP(0, factory, interface="127.0.0.1"))

    target = reactor.listenTCP(0, Factory.forProtocol(Echo), interface="127.0.0.1")
    if options.which == "direct":
        port = server("direct").getHost().port
    else:
        from subprocess import PIPE, Popen

        listen = "from twisted.scripts.twistd import run; run()"
        from support.programs import free_port

        port = free_port()
        arguments = [
            sys.executable,
            "-c",
            listen,
            "-n",
            "--pidfile=",
            "socks5ext",
            f"--listen=tcp:{port}:interface=127.0.0.1",
        ]
        other = Popen(arguments, stdout=PIPE, env={"PYTHONPATH": str(options.folder.resolve())})
        while b"starting on" not in other.stdout.readline():
            pass
        reactor.addSystemEventTrigger("after", "shutdown", other.kill)
        if options.which == "socks":
            port = server(f"socks:tcp\\:127.0.0.1\\:{port}").getHost().port

    def begin():
        sys.setprofile(recorder)
        if options.which == "client":
            # The server runs in another process, so that its calls are not counted.
            endpoint = SOCKS5ClientEndpoint(
                "127.0.0.1",
                target.getHost().port,
                TCP4ClientEndpoint(reactor, "127.0.0.1", port),
                {"extended": {}, "anonymous": ()},
            )
            endpoint.connect(Factory.forProtocol(Application))
        else:
            reactor.connectTCP("127.0.0.1", port, _factory(Client))

    def _factory(protocol):
        from twisted.internet.protocol import ClientFactory

        factory = ClientFactory()
        factory.protocol = protocol
        factory.noisy = False
        return factory

    reactor.callWhenRunning(begin)
    reactor.run()
    # The first run fills caches.
    events = runs[-1]
    if options.list:
        print("\n".join(f"{file}: {name}" for file, name in events))
    calls, functions, files, moves = count(events)
    print(f"{options.which}: {calls} calls of {functions} functions in {files} files, {moves} moves between files")
    for file, number in Counter(file for file, _ in events).most_common():
        print(f"  {number:4} {file}")


if __name__ == "__main__":
    main()
