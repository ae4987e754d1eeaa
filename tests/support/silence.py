"""Name servers and targets that do not answer."""

import contextlib
import socket

from twisted.internet.address import IPv4Address

SLOW_LOOKUP = 4.0
"""Seconds that `system_resolver` takes for a name that it does not answer. A thread cannot be stopped earlier."""


@contextlib.contextmanager
def silent_port(*hosts, port=0):
    """
    A port that drops the first packet of a connection, so that attempts to it stay pending.

    Its accept queue is full, and Linux answers no SYN then.

    :param hosts: addresses of loopback; by default 0.0.0.0, so all of 127.0.0.0/8.
    """
    with contextlib.ExitStack() as stack:
        for host in hosts or ("0.0.0.0",):
            listener = stack.enter_context(socket.create_server((host, port), backlog=0))
            port = listener.getsockname()[1]
            last = None
            for _ in range(4):
                last = stack.enter_context(socket.socket())
                last.setblocking(False)
                last.connect_ex(("127.0.0.1" if host == "0.0.0.0" else host, port))
            assert last is not None
            last.settimeout(0.05)
            with contextlib.suppress(OSError):
                last.getpeername()
                raise AssertionError("the port still takes connections")
        yield port


class SlowNames:
    """
    A name resolver, for `ReactorWith`. It answers names that it does not know only at `give_up`.

    :param answers: IPv4 addresses by name, with underscores for dots.
    :ivar asked: the names that were asked for, in order.
    """

    def __init__(self, **answers):
        self._answers = {name.replace("_", "."): addresses for name, addresses in answers.items()}
        self._pending = []
        self.asked = []

    def resolveHostName(self, receiver, name, portNumber=0, addressTypes=None, transportSemantics="TCP"):
        self.asked.append(name)
        receiver.resolutionBegan(self)
        if name in self._answers:
            for host in self._answers[name]:
                receiver.addressResolved(IPv4Address("TCP", host, portNumber))
            receiver.resolutionComplete()
        else:
            self._pending.append(receiver)
        return self

    def give_up(self):
        """Say of every name that waits for an answer that it has no address; of later ones at once."""
        while self._pending:
            self._pending.pop(0).resolutionComplete()


def system_resolver(**answers):
    """
    Python code, to be run before twistd, that answers for the system's resolver.

    :param answers: by name, with underscores for dots: addresses; the name of an error such as ``EAI_NONAME``;
        or ``None``, which answers EAI_AGAIN after `SLOW_LOOKUP`. Other names go to the system.
    """
    known = {name.replace("_", "."): answer for name, answer in answers.items()}
    return f"""
import socket, time
known, system_getaddrinfo = {known!r}, socket.getaddrinfo

def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
    name = host.decode() if isinstance(host, bytes) else host
    if name not in known:
        return system_getaddrinfo(host, port, family, type, proto, flags)
    answer = known[name]
    if answer is None:
        time.sleep({SLOW_LOOKUP})
        answer = "EAI_AGAIN"
    if isinstance(answer, str):
        raise socket.gaierror(getattr(socket, answer), "an error of the resolver")
    return [
        found
        for each in answer
        for found in system_getaddrinfo(each, port, family, type, proto, flags | socket.AI_NUMERICHOST)
    ]

socket.getaddrinfo = getaddrinfo
"""
