"""A proxy in memory that answers with bytes of a test's own, and attempts to connect through it."""

from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from support.attempts import Application
from txsocksx_ext.testing import MemoryEndpoint, Recorder


class RawProxy(Factory):
    """
    Answers each connection's first bytes.

    :param answer: the bytes; ``None`` for no answer.
    :param closes: whether it closes the connection after that.
    :param echoes: whether it sends back what it gets instead.
    """

    noisy = False

    def __init__(self, answer=b"", *, closes=False, echoes=False, **options):
        self.answer, self.closes, self.echoes = answer, closes, echoes
        self.clock = Clock()
        self.endpoint = MemoryEndpoint(self, clock=self.clock, **options)
        self.connections = []

    def buildProtocol(self, addr):
        connection = _Answering()
        connection.proxy = self
        self.connections.append(connection)
        return connection

    @property
    def connection(self):
        (connection,) = self.connections
        return connection


class _Answering(Recorder):
    proxy = None

    def dataReceived(self, data):
        is_first = not self.received
        super().dataReceived(data)
        if self.proxy.echoes:
            self.transport.write(data)
        elif is_first and self.proxy.answer is not None:
            self.transport.write(self.proxy.answer)
            if self.proxy.closes:
                self.transport.loseConnection()


class RawAttempt:
    """
    One connection through a `RawProxy`.

    :param endpoint: makes an endpoint of HOST, PORT and the endpoint of the proxy.
    """

    def __init__(self, endpoint, proxy, host="target.example", port=443, **options):
        self.proxy = proxy
        self.application = Application()
        self.outcome = None
        self.connecting = endpoint(host, port, proxy.endpoint, reactor=proxy.clock, **options).connect(self.application)
        self.connecting.addBoth(self._ended)
        self.run()

    def _ended(self, outcome):
        self.outcome = outcome.value if isinstance(outcome, Failure) else outcome

    def run(self, seconds=0):
        self.proxy.clock.advance(seconds)
        return self

    @property
    def sent(self):
        """What the proxy got."""
        return self.proxy.connection.received

    @property
    def has_left_nothing(self):
        """Whether no connection, no timer and no protocol of the application is left."""
        return all(each.lost for each in self.proxy.connections) and not self.proxy.clock.getDelayedCalls()
