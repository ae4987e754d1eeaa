"""
Targets to reach through a proxy, and what reaches them: curl, a Twisted protocol, ssh, other people's proxies.

Targets are small servers on free loopback ports. They block in threads of their own, so plain tests and tests that
run in the reactor use them alike: ``with Target(echo) as target: ... target.port``.
"""

import contextlib
import fcntl
import hashlib
import os
import pwd
import queue
import socket
import struct
import subprocess
import sys
import termios
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from zope.interface import implementer

from support.programs import Program, free_port, need
from txsocksx_ext import SOCKS5ClientEndpoint
from txsocksx_ext.errors import SOCKS5Error

PAGE = b"<title>a page</title>" + bytes(range(256)) * 40
CONTENT = hashlib.shake_256(b"content").digest(300_000)
"""More than the buffers of one socket hold at once, and no part of it like another."""

CHUNK = 65536
NO_SUCH_HOST = "no-such-host.invalid"

PATIENCE = 20.0
"""Seconds after which a target gives a connection up, so that no thread outlives its test."""


MEGABYTE = 1 << 20


def content(number, size=200_000):
    """Bytes that are those of this number alone."""
    return hashlib.shake_256(b"%d" % number).digest(size)


def digest(data):
    return hashlib.sha256(data).hexdigest().encode()


# What a target does with a connection. What it returns, a test takes from `Target.next_result`.


def echo(connection):
    """Send everything back, and end when the peer has ended."""
    count = 0
    while data := connection.recv(CHUNK):
        count += len(data)
        connection.sendall(data)
    return count


def answer_the_end(connection):
    """Say nothing until the peer has sent its end; then a digest of all that it sent."""
    received = read_to_end(connection)
    connection.sendall(digest(received))
    return received


def end_first(connection):
    """Send the content and our end; then read all that the peer still sends."""
    connection.sendall(CONTENT)
    connection.shutdown(socket.SHUT_WR)
    return read_to_end(connection)


def reset_after_some(connection):
    """Take what comes first, answer it, and reset the connection."""
    connection.sendall(connection.recv(CHUNK))
    reset(connection)


def until_it_ends(connection):
    """Answer what comes first; then wait: ``reset`` if the connection is aborted, ``end`` if it is closed."""
    connection.sendall(connection.recv(CHUNK))
    try:
        read_to_end(connection)
    except ConnectionResetError:
        return "reset"
    return "end"


def speak_first(connection):
    """Greet as soon as the connection stands, as many servers do; then as `echo`."""
    connection.sendall(b"220 hello\r\n")
    return echo(connection)


def read_to_end(connection):
    received = bytearray()
    while data := connection.recv(CHUNK):
        received += data
    return bytes(received)


def read_exactly(connection, count):
    received = bytearray()
    while len(received) < count:
        data = connection.recv(count - len(received))
        if not data:
            raise AssertionError(f"the connection ended after {len(received)} of {count} bytes")
        received += data
    return bytes(received)


def unacknowledged(connection):
    """How many bytes of what was sent the system of the peer has not received."""
    return int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class Target:
    """
    A server that does `serve` with every connection.

    :ivar peers: the addresses that connected, in their order.
    """

    def __init__(self, serve, host="127.0.0.1"):
        self.host = host
        self.peers = []
        self._serve = serve
        self._results = queue.Queue()
        self._open = set()
        self._threads = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=128)
        self.port = self._listener.getsockname()[1]

    def __enter__(self):
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(self, *_):
        # Closing alone does not wake a thread that accepts.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(PATIENCE)
        self._listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)

    def next_result(self):
        """What `serve` made of the next connection that ended: its value, or its exception."""
        return self._results.get(timeout=PATIENCE)

    def when_next_result(self):
        """The same as a Deferred, for tests in the reactor, which has to run for the connection to end."""
        return deferToThread(self.next_result)

    def _accept(self):
        while True:
            try:
                connection, peer = self._listener.accept()
            except OSError:
                return
            self.peers.append(peer[:2])
            self._open.add(connection)
            thread = threading.Thread(target=self._run, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self, connection):
        connection.settimeout(PATIENCE)
        try:
            result = self._serve(connection)
        except Exception as error:
            result = error
        self._open.discard(connection)
        connection.close()
        self._results.put(result)


class _Pages(BaseHTTPRequestHandler):
    def do_GET(self):
        self._answer(PAGE)

    def do_POST(self):
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Tests read what they need from the client."""


@contextlib.contextmanager
def web_server(host="127.0.0.1"):
    """A web server: `PAGE` for every GET, and for every POST the body that was sent. Yields its port."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        daemon_threads = True

        def server_bind(self):
            # HTTPServer's own looks for the host's name, which can ask a name server.
            self.socket.bind(self.server_address)
            self.server_address = self.socket.getsockname()
            self.server_name, self.server_port = host, self.server_address[1]

    with Server((host, 0), _Pages) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join(PATIENCE)


# What reaches them.


def run(*command, given=b""):
    return subprocess.run([str(part) for part in command], input=given, capture_output=True, timeout=30)


CURL_PROXY_FAILED = 97
"""curl's exit status where the proxy did not connect it."""


def curl(*options, given=b""):
    # -q and --noproxy: nothing of the machine's own settings counts.
    return run(need("curl"), "-q", "-sS", "--noproxy", "", *options, given=given)


@implementer(IHalfCloseableProtocol)
class Talker(Protocol):
    """
    What talks to a target from inside the reactor.

    :ivar received: all bytes so far.
    :ivar input_ended: a Deferred: the target has closed its sending side.
    :ivar lost: a Deferred of the exception that says how the connection ended.
    """

    def __init__(self):
        self.received = bytearray()
        self.input_ended = Deferred()
        self.lost = Deferred()
        self._wanted = 0
        self._has_enough = None

    def dataReceived(self, data):
        self.received += data
        if self._has_enough is not None and len(self.received) >= self._wanted:
            enough, self._has_enough = self._has_enough, None
            enough.callback(bytes(self.received))

    def has_received(self, count):
        """A Deferred of all bytes, as soon as there are so many."""
        if len(self.received) >= count:
            return succeed(bytes(self.received))
        self._wanted, self._has_enough = count, Deferred()
        return self._has_enough

    def readConnectionLost(self):
        self.input_ended.callback(None)

    def writeConnectionLost(self):
        """Asked for by `IHalfCloseableProtocol`."""

    def connectionLost(self, reason):
        self.lost.callback(reason.value)


def local(port):
    """The endpoint of a proxy on this machine."""
    from twisted.internet import reactor

    return TCP4ClientEndpoint(reactor, "127.0.0.1", port)


ANY = {"extended": {}, "anonymous": ()}
"""The methods that need neither a password nor pairs."""


def talk_to(host, port, proxy, methods=ANY, **options):
    """Connect a `Talker` to a target through a proxy, by our client."""
    return SOCKS5ClientEndpoint(host, port, proxy, methods, **options).connect(Factory.forProtocol(Talker))


async def echoes(proxy, methods=ANY):
    """Whether bytes go to a target and come back."""
    with Target(echo) as target:
        talker = await talk_to("127.0.0.1", target.port, proxy, methods)
        talker.transport.write(CONTENT)
        received = await talker.has_received(len(CONTENT))
        talker.transport.loseConnection()
        await talker.lost
        return received == CONTENT


async def failure_of(asking):
    """The exception of something that has to fail."""
    from twisted.internet import reactor

    try:
        await asking
    except SOCKS5Error as error:
        # An abort closes the socket in the next turn; until then the server waits for us.
        await deferLater(reactor, 0)
        return error
    raise AssertionError("it did not fail")


class SSHServer:
    """
    A real sshd that lets the user of these tests in, by a key of its own.

    :param start: starts programs, as the fixture ``program`` does.
    :param folder: for its keys.
    """

    def __init__(self, start, folder):
        self.port = free_port()
        self._client_key = folder / "client"
        for key in ("host", "client"):
            subprocess.run(
                [need("ssh-keygen", "openssh-client"), "-qted25519", "-N", "", "-f", folder / key], check=True
            )
        if os.geteuid() == 0:
            # sshd refuses to run as root without the folder that a system's start makes for it.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        settings = {
            "ListenAddress": f"127.0.0.1:{self.port}",
            "HostKey": folder / "host",
            "AuthorizedKeysFile": folder / "client.pub",
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "PrintMotd": "no",
        }
        config = folder / "sshd_config"
        config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        # sshd starts itself anew for every connection, and so wants its whole path.
        start([need("sshd", "openssh-server"), "-D", "-e", "-f", config], port=self.port)

    def command(self, *options):
        """An ssh command that logs in here, without what it is to do there."""
        settings = {
            "IdentityFile": self._client_key,
            "IdentitiesOnly": "yes",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "BatchMode": "yes",
            "Port": self.port,
        }
        flags = [f"-o{name}={value}" for name, value in settings.items()]
        return [need("ssh", "openssh-client"), "-F", "/dev/null", *flags, *options, "127.0.0.1"]


# Proxies of other people's, each started by `start` as the fixture ``program`` does. They return their port.


def microsocks(start, folder, options=()):
    port = free_port()
    start([need("microsocks"), "-i", "127.0.0.1", "-p", port, *options], port=port)
    return port


def dante(start, folder):
    port = free_port()
    user = pwd.getpwuid(os.geteuid()).pw_name
    config = folder / "danted.conf"
    config.write_text(
        f"""
        logoutput: stderr
        internal: 127.0.0.1 port = {port}
        external: 127.0.0.1
        clientmethod: none
        socksmethod: none
        user.privileged: {user}
        user.unprivileged: {user}
        client pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}
        socks pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}
        """
    )
    start([need("danted", "dante-server"), "-f", config, "-p", folder / "danted.pid"], port=port)
    return port


@contextlib.contextmanager
def programs():
    """For fixtures that outlive one test: yields what the fixture ``program`` is, and stops all in the end."""
    with contextlib.ExitStack() as stack:

        def start(*args, **kwargs):
            each = Program(*args, **kwargs)
            stack.callback(each.stop)
            each.wait_until_ready()
            return each

        yield start
