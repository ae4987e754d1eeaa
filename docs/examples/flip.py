"""A minimal transport with a handshake: it flips every bit."""

from txsocksx_ext.errors import TransportProtocolFailure
from txsocksx_ext.pt import Transport, TransportProtocol, run

GREETING = b"flip 1\n"


def flipped(data):
    return bytes(byte ^ 0xFF for byte in data)


class Flip(TransportProtocol):
    """Both sides are the same."""

    def connectionMade(self):
        self.buffer = b""
        self.has_greeted = False
        self.transport.write(GREETING)

    def dataReceived(self, data):
        if self.has_greeted:
            self.write_payload(flipped(data))
            return
        self.buffer += data
        if not self.buffer.startswith(GREETING[: len(self.buffer)]):
            raise TransportProtocolFailure("the peer does not flip")
        if len(self.buffer) >= len(GREETING):
            self.has_greeted = True
            self.ready()
            self.write_payload(flipped(self.buffer[len(GREETING) :]))

    def payload_received(self, payload):
        self.transport.write(flipped(payload))


if __name__ == "__main__":
    run(Transport("flip", client=Flip, server=Flip))
