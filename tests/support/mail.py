"""A mail server that keeps what it gets."""

from twisted.internet.defer import succeed
from twisted.mail.smtp import SMTP, IMessage, IMessageDelivery, SMTPFactory
from zope.interface import implementer


@implementer(IMessageDelivery)
class MailServer(SMTPFactory):
    """
    Takes mail for everybody.

    :ivar received: the lines of each message.
    """

    noisy = False

    def __init__(self):
        super().__init__()
        self.received = []

    def buildProtocol(self, addr):
        server = SMTP(delivery=self)
        server.factory = self
        server.portal = None
        return server

    def receivedHeader(self, helo, origin, recipients):
        return b"Received: here"

    def validateFrom(self, helo, origin):
        return origin

    def validateTo(self, user):
        return lambda: _Message(self.received)


@implementer(IMessage)
class _Message:
    def __init__(self, received):
        self._received, self._lines = received, []

    def lineReceived(self, line):
        self._lines.append(line)

    def eomReceived(self):
        self._received.append(self._lines)
        return succeed(None)

    def connectionLost(self):
        pass
