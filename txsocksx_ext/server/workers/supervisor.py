"""
The supervisor of the workers: it owns the listening sockets, and the routes of which there is only one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList, FirstError, gatherResults, maybeDeferred
from twisted.logger import Logger

from ...net.timers import clock_of
from ...route.base import IRoute
from ...tor.isolation import TOKENS
from ..listeners import ListenerString
from ..settings import ServerSettings
from ..stats import Counters
from ..status import Status, parts_of
from ..stopping import ServerService
from .shared_routes import SharedRouteFactory
from .slots import Slot, WorkerProcess, worker_command
from .sockets import SharedListener, open_listener

KILL_AFTER = 10.0
"""Seconds beyond the time to drain after which workers are killed."""

FIRST_DESCRIPTOR = 3
"""The number of the first listening socket in a worker, after its standard streams."""

_log = Logger(namespace="txsocksx_ext.server")


@dataclass(eq=False)
class _Shared:
    """
    A route that runs once, in this process.

    :ivar port: where workers reach it; ``None`` before the start.
    :ivar spec: the arguments of the workers' `SharedRoute`.
    """

    route: IRoute
    port: Any = None
    factory: SharedRouteFactory | None = None
    spec: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Plan:
    """What the workers serve."""

    settings: ServerSettings
    drain: float
    listeners: list[SharedListener] = field(default_factory=list)
    routes: dict[str, _Shared] = field(default_factory=dict)


class WorkersService(ServerService):
    """
    A server of several processes.

    The listening sockets stay open here when a worker dies, and the other workers
    accept from them until its successor is ready.

    :param reactor: listens and starts processes.
    :param settings: the settings of each worker.
    :param listeners: Twisted server endpoint strings, of kinds that workers can share.
    :param workers: the number of workers.
    :param drain: seconds that open streams have to end by themselves.
    """

    def __init__(
        self, reactor: Any, settings: ServerSettings, listeners: Iterable[str], workers: int, drain: float = 10.0
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._descriptions = list(listeners)
        # Paths in the settings are relative to this folder; a daemon changes its own.
        self._working_folder = os.getcwd()
        self._routes = MultiService()
        self._shared: list[_Shared] = []
        self._plan = _Plan(settings, drain)
        for description, route in settings.routes_run_once(reactor):
            self._plan.routes[description] = self._share(route)
        self._slots = [Slot(reactor, number, self._spawn) for number in range(workers)]
        self._folder = ""
        self._sockets_made = 0

    @property
    def counters(self) -> Counters:
        """The sum of the counters of all workers."""
        return Counters.sum_of(slot.counters for slot in self._slots)

    def privilegedStartService(self) -> None:
        """Listen while the process still has its privileges."""
        super().privilegedStartService()
        self._listen()

    def _listen(self) -> None:
        for description in self._descriptions:
            opened = open_listener(self._reactor, description, len(self._slots))
            self._plan.listeners.append(opened)
            _log.info("{workers} workers, starting on {where}", workers=len(self._slots), where=opened.where)

    def startService(self) -> None:
        """Start the shared routes, then the workers."""
        if not self._plan.listeners:  # twist does not call privilegedStartService()
            self._listen()
        self._routes.startService()
        for shared in self._plan.routes.values():
            self._listen_for(shared, self._plan.settings)
        self._for_all(Slot.start)
        super().startService()

    async def reload(self, settings: ServerSettings, listeners: Sequence[str], drain: float, ends_users: bool) -> None:
        """
        Start workers with other settings, and have those of today end with their last stream. See `ServerService`.

        If one of the new workers does not become ready, none serves.
        """
        old, new = self._plan, _Plan(settings, drain)
        opened: list[SharedListener] = []
        started: list[_Shared] = []
        candidates: list[WorkerProcess] = []
        closed = list(old.listeners)
        try:
            for description in listeners:
                place = ListenerString(description).place
                kept = next((each for each in closed if ListenerString(each.description).place == place), None)
                if kept is None:
                    opened.append(open_listener(self._reactor, description, len(self._slots)))
                    new.listeners.append(opened[-1])
                else:
                    closed.remove(kept)
                    new.listeners.append(replace(kept, description=description))
            for description, route in settings.routes_run_once(self._reactor):
                if description not in old.routes:
                    started.append(self._share(route))
                    self._listen_for(started[-1], settings)
                new.routes[description] = old.routes.get(description) or started[-1]
            for slot in self._slots:
                candidates.append(slot.candidate(partial(self._spawn_by, new)))
            await gatherResults([each.when_ready() for each in candidates], consumeErrors=True)
        except Exception as error:
            for candidate in candidates:
                candidate.signal("KILL")
            # They have the sockets too.
            await DeferredList([each.when_ended() for each in candidates])
            for listener in opened:
                await listener.close()
            for shared in started:
                await self._unshare(shared)
            if isinstance(error, FirstError):
                error.subFailure.raiseException()
            raise
        self._plan = new
        retired = [process for slot in self._slots for process in slot.running if process not in candidates]
        for slot, candidate in zip(self._slots, candidates, strict=True):
            slot.adopt(candidate)
        for process in retired:
            process.send("retire", settings.auth if ends_users else [])
        for listener in closed:
            await listener.close()
        unused = [shared for text, shared in old.routes.items() if text not in new.routes]
        if unused:
            ending = DeferredList([each.when_ended() for each in retired])
            ending.addCallback(lambda _: DeferredList([Deferred.fromCoroutine(self._unshare(each)) for each in unused]))

    def when_serving(self) -> Deferred[None]:
        """See `ServerService`."""
        return DeferredList([slot.served for slot in self._slots]).addCallback(lambda _: None)

    async def stop_serving(self) -> None:
        """See `ServerService`."""
        Service.stopService(self)
        self._for_all(Slot.stop)
        for listener in self._plan.listeners:
            await listener.close()
        self._plan.listeners = []
        ending = DeferredList([each for slot in self._slots for each in slot.when_ended()])
        deadline = clock_of(self._reactor).callLater(self._plan.drain + KILL_AFTER, self._for_all, Slot.kill)
        await ending
        if deadline.active():
            deadline.cancel()
        self.counters.write_to_log()
        # Only now: draining streams need their routes.
        for shared in list(self._shared):
            await self._unshare(shared)
        await maybeDeferred(self._routes.stopService)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def abort_all(self) -> None:
        """See `ServerService`."""
        self._for_all(Slot.abort)

    @property
    def shows_targets(self) -> bool:
        """See `StatusSource`."""
        return self._plan.settings.log_targets

    async def status(self, most: int | None) -> Status:
        """See `StatusSource`. Each worker tells of `most` sessions."""
        answers = await self._ask_all("status", most)
        status = Status(self.counters, parts_of(shared.route for shared in self._shared))
        for answer in answers:
            if answer is None:
                status.unheard += 1
            else:
                status.add(answer)
        return status

    async def end_sessions(self, key: str, value: str) -> int:
        """See `StatusSource`."""
        return sum(answer or 0 for answer in await self._ask_all("end", [key, value]))

    async def _ask_all(self, word: str, argument: object) -> list[Any]:
        """Return the answers of all workers; ``None`` for one that does not answer in time."""
        asked = [process.ask(word, argument) for slot in self._slots for process in slot.running]
        return [await each for each in asked]

    def _for_all(self, act: Callable[[Slot], None]) -> None:
        for slot in self._slots:
            act(slot)

    def _share(self, route: IRoute) -> _Shared:
        assert route.service is not None
        route.service.setServiceParent(self._routes)
        shared = _Shared(route)
        self._shared.append(shared)
        return shared

    def _listen_for(self, shared: _Shared, settings: ServerSettings) -> None:
        """Listen for workers that use a shared route."""
        if not self._folder:
            self._folder = tempfile.mkdtemp(prefix="socks5ext-")
        self._sockets_made += 1
        path, route = os.path.join(self._folder, f"route-{self._sockets_made}"), shared.route
        shared.factory = SharedRouteFactory(self._reactor, route, settings.limits, settings.log_targets)
        # mkdtemp() has made the folder private.
        shared.port = self._reactor.listenUNIX(path, shared.factory, backlog=4096, mode=0o600)
        shared.spec = {
            "path": path,
            "name": getattr(route, "name", ""),
            "keys": sorted(getattr(route, "keys", ())),
            "uses_credentials": getattr(route, "uses_credentials", False),
        }

    async def _unshare(self, shared: _Shared) -> None:
        """Stop a shared route that no worker uses any more."""
        if shared not in self._shared:
            return
        self._shared.remove(shared)
        if shared.port is not None and shared.factory is not None:
            await maybeDeferred(shared.port.stopListening)
            await shared.factory.drain(0)
        assert shared.route.service is not None
        await maybeDeferred(shared.route.service.disownServiceParent)

    def _spawn(self, slot: Slot, process: WorkerProcess) -> None:
        self._spawn_by(self._plan, slot, process)

    def _spawn_by(self, plan: _Plan, slot: Slot, process: WorkerProcess) -> None:
        sockets = [each.fileno() for listener in plan.listeners for each in listener.sockets]
        streams: dict[int, Any] = {0: "w", 1: "r", 2: "r"}
        program, *arguments = worker_command(self._reactor)
        descriptors = {**streams, **dict(enumerate(sockets, FIRST_DESCRIPTOR))}
        process.start(program, arguments, path=self._working_folder, childFDs=descriptors)
        process.send("start", self._message(plan, slot.number))

    def _message(self, plan: _Plan, slot: int) -> dict[str, Any]:
        """Return what a worker has to know. A pipe carries it, because other users can read a command line."""
        descriptor = FIRST_DESCRIPTOR
        listeners = []
        for each in plan.listeners:
            count = len(each.sockets)
            descriptors = list(range(descriptor, descriptor + count))
            listeners.append({"description": each.description, "family": each.family, "descriptors": descriptors})
            descriptor += count
        return {
            "slot": slot,
            "settings": plan.settings.as_message(),
            "secret": TOKENS.secret.hex(),
            "drain": plan.drain,
            "listeners": listeners,
            "routes": {description: shared.spec for description, shared in plan.routes.items()},
            "files": [file for listener in plan.listeners for file in listener.files()],
            "folder": self._folder,
        }
