"""
The server as a Twisted service: it listens, and drains its streams before it stops.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.interfaces import IAddress, IStreamServerEndpoint

from ..checks import check_type
from ..policy.table import RouteTable
from ..protocol.pairs import check_limit
from .auth import HashedPasswordFile
from .draining import end_removed_users
from .factory import SOCKS5ExtFactory
from .listeners import ListenerEndpoint, ListenerString, listener_endpoint
from .settings import ServerSettings
from .status import Status, end_sessions, status_of
from .stopping import ServerService


class SharedService(MultiService):
    """
    The parent of a route's service, which runs while any of its users runs.

    A service can have only one parent, but several servers of a program may share a route.
    """

    def __init__(self) -> None:
        super().__init__()
        self._users: set[object] = set()
        self._stopping: Deferred[object] | None = None

    @classmethod
    def around(cls, service: IService) -> SharedService:
        """Return the parent of a service; give it one of this class if it has none."""
        parent = service.parent
        if not isinstance(parent, cls):
            parent = cls()
            service.setServiceParent(parent)
        return parent

    def start_for(self, user: object) -> None:
        """Start for the first user, once a stop in progress has ended; no-op if the user has started it before."""
        if not self._users and self._stopping is None:
            self.startService()
        self._users.add(user)

    def stop_for(self, user: object) -> Deferred[object] | None:
        """
        Stop for the last user; no-op if the user has not started it.

        :returns: fires when it has stopped; ``None`` if it does not stop.
        """
        if user not in self._users:
            return None
        self._users.remove(user)
        if self._users:
            return None
        stopping: Deferred[object] = self.stopService()
        self._stopping = stopping
        return stopping.addBoth(self._stopped)

    def _stopped(self, outcome: object) -> object:
        self._stopping = None
        if self._users:  # a user started it meanwhile
            self.startService()
        return outcome


class SOCKS5ExtService(ServerService, MultiService):
    """
    A service that listens for a factory, and drains its streams before it stops.

    :param reactor: listens.
    :param factory: serves the connections.
    :param listeners: Twisted server endpoints, or their strings.
    :param drain: seconds that open streams have to end by themselves.
    :raises ValueError: a listener is malformed, or `drain` is below 0.
    :raises TypeError: `listeners` is one string or holds something else, or `factory` is of a wrong type.
    """

    def __init__(
        self,
        reactor: Any,
        factory: SOCKS5ExtFactory,
        listeners: Iterable[str | IStreamServerEndpoint],
        drain: float = 10.0,
    ) -> None:
        check_type("factory", factory, SOCKS5ExtFactory)
        if isinstance(listeners, str):
            raise TypeError("listeners are several endpoint strings: put the one into a list")
        check_limit("drain", drain, may_be_0=True)
        super().__init__()
        self.factory = factory
        self._reactor = factory.reactor
        self._drain = drain
        # The number of policies in use that need each service.
        self._shared: Counter[SharedService] = Counter()
        self._use_services_of(factory.policy)
        factory.policy_observers.append(self)
        self._listeners: dict[ListenerEndpoint, IService] = {}
        for listener in listeners:
            self._listen(listener_endpoint(reactor, listener))

    def addresses(self) -> list[IAddress]:
        """
        Return the addresses of the listeners, in their order: where one was given port 0, with the port that it has.

        A listener that opens later than the service starts, such as an onion service, is missing until then.
        """
        ports = [listener.port for listener in self._listeners] if self.running else []
        return [port.getHost() for port in ports if port is not None]

    def startService(self) -> None:
        """Start the services of the routes, then listen."""
        for shared in self._shared:
            shared.start_for(self)
        super().startService()

    async def stop_serving(self) -> None:
        """See `ServerService`."""
        await MultiService.stopService(self)
        await self.factory.drain(self._drain)
        self.report()
        # Only now: draining streams need their routes.
        await self._stop_routes()

    def abort_all(self) -> None:
        """See `ServerService`."""
        self.factory.abort_all()

    @property
    def shows_targets(self) -> bool:
        """See `StatusSource`."""
        return self.factory.log.with_targets

    async def status(self, most: int | None) -> Status:
        """See `StatusSource`."""
        return status_of(self.factory, most)

    async def end_sessions(self, key: str, value: str) -> int:
        """See `StatusSource`."""
        return end_sessions(self.factory, key, value)

    async def reload(self, settings: ServerSettings, listeners: Sequence[str], drain: float, ends_users: bool) -> None:
        """See `ServerService`."""
        made = self.factory.policy.made_of
        running = {text: route for text, route in made.items() if getattr(route, "service", None) is not None}
        # They read their files when these change, and remember verified logins.
        checkers = {text: each for text, each in self.factory.checkers.items() if isinstance(each, HashedPasswordFile)}
        replacement = settings.make_factory(self._reactor, running, checkers)
        with_users = settings.make_checkers() if ends_users else []
        removed = list(self._listeners)
        certificates = []
        opened: list[ListenerEndpoint] = []
        try:
            for description in listeners:
                place = ListenerString(description).place
                kept = next((each for each in removed if ListenerString(each.name).place == place), None)
                if kept is None:
                    opened.append(listener_endpoint(self._reactor, description))
                    self._listen(opened[-1])
                else:
                    removed.remove(kept)
                    certificates.append(kept.read_certificate(description))
        except Exception:
            await self._close(opened)
            raise
        self.factory.take_settings_of(replacement)
        self._drain = drain
        for use_certificate in certificates:
            use_certificate()
        end_removed_users(self.factory.connections, with_users)
        await self._close(removed)

    def _listen(self, listener: ListenerEndpoint) -> None:
        service = self._listeners[listener] = listener.service(self.factory, self._reactor)
        service.setServiceParent(self)

    async def _close(self, listeners: Iterable[ListenerEndpoint]) -> None:
        await DeferredList([maybeDeferred(self._listeners.pop(each).disownServiceParent) for each in listeners])

    def _stop_routes(self) -> Deferred[Any]:
        return DeferredList([maybeDeferred(shared.stop_for, self) for shared in self._shared])

    def policy_changed(self, old: RouteTable, new: RouteTable, unused: Deferred[None]) -> None:
        """See `PolicyObserver`: start the services of the new routes, and stop those of the old ones when unused."""
        self._use_services_of(new)
        unused.addCallback(lambda _: self._leave_services_of(old))

    def _use_services_of(self, policy: RouteTable) -> None:
        for shared in _services_of(policy):
            self._shared[shared] += 1
            if self.running:
                shared.start_for(self)

    def _leave_services_of(self, policy: RouteTable) -> None:
        for shared in _services_of(policy):
            self._shared[shared] -= 1
            if not self._shared[shared]:
                del self._shared[shared]
                shared.stop_for(self)

    def report(self) -> None:
        """Log the counters."""
        self.factory.counters.write_to_log()


def _services_of(policy: RouteTable) -> set[SharedService]:
    services = (getattr(route, "service", None) for route in policy.routes)
    return {SharedService.around(service) for service in services if service is not None}
