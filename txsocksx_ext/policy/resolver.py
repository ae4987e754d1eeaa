"""
Names to addresses, by the reactor's own resolver; and addresses to names, by the system's.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet._resolver import GAIResolver
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, DeferredSemaphore, succeed
from twisted.internet.interfaces import IAddress, IHostnameResolver, IHostResolution, IResolutionReceiver
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from zope.interface import implementer

from ..errors import HostUnreachable
from ..net.limiter import in_turn
from ..protocol.messages import Address

LOOKUPS_AT_ONCE = 8
"""A look-up holds one of the reactor's ten threads, and cannot be stopped: slow names must not take all."""

_log = Logger(namespace="txsocksx_ext.server")


class Lookups:
    """
    Resolves names by a reactor's resolver, and finds the names of addresses, a few at a time in all.

    Clients that ask for the same name at the same time share one look-up.

    :param reactor: has the resolver, and threads.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._turns = DeferredSemaphore(LOOKUPS_AT_ONCE)
        self._questions: dict[str, _Question] = {}

    async def look_up(self, destination: Address) -> list[Address]:
        """
        Resolve a name.

        Names under ``.onion`` are never asked for: RFC 7686, section 2. A client
        that leaves gives up its place in the queue.

        :returns: one address or more, in the resolver's order, each with the
            destination's port.
        :raises HostUnreachable: there are none.
        """
        name = destination.host
        if destination.is_onion or not _is_host_name(name):
            raise HostUnreachable("the name has no address")
        question = self._questions.get(name)
        if question is None:
            question = self._questions[name] = _Question(name, lambda: self._questions.pop(name, None))
            question.ask(self._reactor, self._turns)
        hosts = await question.answer()
        if not hosts:
            raise HostUnreachable("the name has no address")
        return [Address.of(host, destination.port) for host in hosts]

    async def name_of(self, address: Address) -> Address:
        """
        Find the name of an address.

        A client that leaves gives up its place in the queue.

        :returns: the name, with the port 0.
        :raises HostUnreachable: it has none.
        """
        where = (address.host, 0)
        try:
            name, _ = await in_turn(
                self._turns,
                lambda: deferToThreadPool(
                    self._reactor, self._reactor.getThreadPool(), socket.getnameinfo, where, socket.NI_NAMEREQD
                ),
            )
        except OSError:
            raise HostUnreachable("the address has no name") from None
        return Address.of(name, 0)


def _is_host_name(host: str) -> bool:
    """Whether getaddrinfo can take the name: it raises, where Twisted expects a failed look-up."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _resolver_of(reactor: Any) -> IHostnameResolver:
    """The reactor's resolver; instead of Twisted's own, one that answers whatever happens."""
    resolver: IHostnameResolver = reactor.nameResolver
    return GAIResolver(reactor, getaddrinfo=_getaddrinfo) if type(resolver) is GAIResolver else resolver


def _getaddrinfo(host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0) -> Any:
    """
    The system's, with all failures as one kind.

    Twisted's resolver knows the one, and of others tells nobody: as where no
    descriptor is left. Then the name would be asked for without end.
    """
    try:
        return socket.getaddrinfo(host, port, family, type, proto, flags)
    except (OSError, ValueError) as error:
        raise socket.gaierror(*error.args) from None


@implementer(IResolutionReceiver)
class _Question:
    """
    One look-up, for all who want to know. A resolver cannot be stopped, so late answers fall away.

    :param forget: called when nobody can join any more.
    """

    def __init__(self, name: str, forget: Callable[[], object]) -> None:
        self._name = name
        self._forget = forget
        self._waiting: list[Deferred[list[str]]] = []
        self._hosts: list[str] = []
        self._is_answered = False

    def ask(self, reactor: Any, turns: DeferredSemaphore) -> None:
        """Ask the resolver, as soon as it is this question's turn."""
        self._turn: Deferred[Any] = turns.acquire()
        self._turn.addCallbacks(lambda _: self._begin(reactor, turns), lambda _: None)

    def answer(self) -> Deferred[list[str]]:
        """Fires with the addresses found, perhaps with none."""
        if self._is_answered:
            return succeed(self._hosts)
        waiting: Deferred[list[str]] = Deferred(self._leave)
        self._waiting.append(waiting)
        return waiting

    def _begin(self, reactor: Any, turns: DeferredSemaphore) -> None:
        self._turns = turns
        try:
            _resolver_of(reactor).resolveHostName(self, self._name)
        except Exception as error:  # of a resolver's program; its words may hold the name
            _log.warn("a resolver failed: {error}", error=type(error).__name__)
            self.resolutionComplete()

    def _leave(self, waiting: Deferred[list[str]]) -> None:
        self._waiting.remove(waiting)
        if not self._waiting and not self._turn.called:
            self._forget()
            self._turn.cancel()

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """The resolver has begun."""

    def addressResolved(self, address: IAddress) -> None:
        """One address was found."""
        if isinstance(address, (IPv4Address, IPv6Address)):
            self._hosts.append(address.host.split("%")[0])

    def resolutionComplete(self) -> None:
        """No more addresses follow."""
        if self._is_answered:  # a resolver that failed may still answer
            return
        self._is_answered = True
        self._forget()
        self._turns.release()
        # What one does with the answer may have others leave.
        while self._waiting:
            self._waiting.pop(0).callback(self._hosts)
