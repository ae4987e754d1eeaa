"""A program with several transports, each of which does something that a test looks at."""

import os
import sys

from twisted.internet.address import IPv4Address
from twisted.logger import Logger

from txsocksx_ext.errors import TransportInternalError
from txsocksx_ext.pt import Transport, TransportProtocol, run


class Plain(TransportProtocol):
    """Carries everything as it is. When a connection is lost, it says so in its state."""

    def connectionMade(self):
        self.ready()

    def dataReceived(self, data):
        self.write_payload(data)

    def payload_received(self, payload):
        self.transport.write(payload)

    def connectionLost(self, reason):
        if "NOTES_THE_END" in os.environ:
            (self.side.state / "lost").write_text("yes")


class Talkative(Plain):
    """Prints and logs, as it should not and as it should."""

    @classmethod
    def set_up(cls, side):
        print("printed, at 192.0.2.1")
        os.system("echo from a child")
        sys.stdout.flush()
        peer = IPv4Address("TCP", "192.0.2.1", 80)
        side.log.debug("debug")
        side.log.info('{peer} and [2001:db8::1]:80 said "{word}"', peer=peer, word="a\nb")
        Logger().warn("of a module")
        Logger(namespace="twisted.internet").info("not for tor")
        Logger(namespace="twisted.internet").warn("for tor")
        side.status(CONNECT="Success", TEXT="with spaces")
        try:
            raise ZeroDivisionError("at 192.0.2.1")
        except ZeroDivisionError:
            side.log.failure("it failed")
        return {"a=b": "c,d\\"}


class Flooding(Plain):
    """Logs more than a pipe holds."""

    def prepare(self):
        for _ in range(2000):
            self.side.log.info("x" * 1000)


class Broken(Plain):
    """Does not start."""

    @classmethod
    def set_up(cls, side):
        raise ValueError("the moon is not full at 192.0.2.1")


class Faulty(Plain):
    """Does not start, by a fault of its own."""

    @classmethod
    def set_up(cls, side):
        return 1 / 0


class Unspeakable(Plain):
    """Publishes what tor could not read."""

    @classmethod
    async def set_up(cls, side):
        return {"key": "two words"}


class Choosy(Plain):
    """Takes one option."""

    def prepare(self):
        int(self.arguments["number"])


class Unwilling(Plain):
    """Fails, and does not raise."""

    def prepare(self):
        self.fail(TransportInternalError("no device is free"))


if __name__ == "__main__":
    run(
        Transport("plain", Plain, Plain),
        Transport("talkative", Talkative, Talkative),
        Transport("flooding", Flooding),
        Transport("server_only", server=Plain),
        Transport("client_only", client=Plain),
        Transport("broken", Broken, Broken),
        Transport("faulty", Faulty, Faulty),
        Transport("unspeakable", Unspeakable, Unspeakable),
        Transport("choosy", Choosy, Choosy),
        Transport("unwilling", Unwilling, Unwilling),
        version=os.environ.get("SAYS_VERSION", ""),
        log_addresses="LOGS_ADDRESSES" in os.environ,
    )
