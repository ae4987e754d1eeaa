"""
The supervisor of the workers: it owns the listening sockets, and the routes of which there is only one.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.logger import Logger

from ...net.timers import clock_of
from ...route.base import IRoute
from ...tor.isolation import TOKENS
from ..settings import ServerSettings
from ..stats import Counters
from ..status import ProcessFigures, Status, parts_of
from ..stopping import ServerService
from .shared_routes import SharedRouteFactory
from .slots import Slot, WorkerProcess, worker_command
from .sockets import SharedListener, open_listener

KILL_AFTER = 10.0
"""Seconds beyond the time to drain after which workers are killed."""

FIRST_DESCRIPTOR = 3
"""The number of the first listening socket in a worker, after its standard streams."""

_log = Logger(namespace="txsocksx_ext.server")


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
        self._reactor = reactor
        self._settings = settings
        self._descriptions = list(listeners)
        self._drain = drain
        # Paths in the settings are relative to this folder; a daemon changes its own.
        self._working_folder = os.getcwd()
        self._routes = MultiService()
        self._shared_routes = dict(settings.routes_run_once(reactor))
        for route in self._shared_routes.values():
            assert route.service is not None
            route.service.setServiceParent(self._routes)
        self._slots = [Slot(reactor, number, self._spawn) for number in range(workers)]
        self._listeners: list[SharedListener] = []
        self._folder = ""
        self._route_specs: dict[str, dict[str, Any]] = {}
        self._route_ports: list[tuple[Any, SharedRouteFactory]] = []

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
            self._listeners.append(opened)
            _log.info("{workers} workers, starting on {where}", workers=len(self._slots), where=opened.where)

    def startService(self) -> None:
        """Start the shared routes, then the workers."""
        super().startService()
        if not self._listeners:  # twist does not call privilegedStartService()
            self._listen()
        self._routes.startService()
        if self._shared_routes:
            self._folder = tempfile.mkdtemp(prefix="socks5ext-")
        for description, route in self._shared_routes.items():
            self._route_specs[description] = self._listen_for(route)
        self._for_all(Slot.start)

    def when_serving(self) -> Deferred[None]:
        """See `ServerService`."""
        return DeferredList([slot.served for slot in self._slots]).addCallback(lambda _: None)

    async def stop_serving(self) -> None:
        """See `ServerService`."""
        Service.stopService(self)
        self._for_all(Slot.stop)
        for listener in self._listeners:
            await listener.close()
        self._listeners = []
        ending = DeferredList([each for slot in self._slots for each in slot.when_ended()])
        deadline = clock_of(self._reactor).callLater(self._drain + KILL_AFTER, self._for_all, Slot.kill)
        await ending
        if deadline.active():
            deadline.cancel()
        self.counters.write_to_log()
        # Only now: draining streams need their routes.
        for port, factory in self._route_ports:
            await maybeDeferred(port.stopListening)
            await factory.drain(0)
        self._route_ports = []
        await maybeDeferred(self._routes.stopService)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def abort_all(self) -> None:
        """See `ServerService`."""
        self._for_all(Slot.abort)

    @property
    def shows_targets(self) -> bool:
        """See `StatusSource`."""
        return self._settings.log_targets

    async def status(self, most: int | None) -> Status:
        """See `StatusSource`. Each worker tells of `most` sessions."""
        answers = await self._ask_all("status", most)
        status = Status(self.counters, parts_of(self._shared_routes.values()), [], ProcessFigures.of_this_process())
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

    def _listen_for(self, route: IRoute) -> dict[str, Any]:
        """Listen for workers that use a shared route; return the arguments of their `SharedRoute`."""
        path = os.path.join(self._folder, f"route-{len(self._route_ports)}")
        factory = SharedRouteFactory(self._reactor, route, self._settings.limits, self._settings.log_targets)
        # mkdtemp() has made the folder private.
        port = self._reactor.listenUNIX(path, factory, backlog=4096, mode=0o600)
        self._route_ports.append((port, factory))
        return {
            "path": path,
            "name": getattr(route, "name", ""),
            "keys": sorted(getattr(route, "keys", ())),
            "uses_credentials": getattr(route, "uses_credentials", False),
        }

    def _spawn(self, slot: Slot, process: WorkerProcess) -> None:
        sockets = [each.fileno() for listener in self._listeners for each in listener.sockets]
        streams: dict[int, Any] = {0: "w", 1: "r", 2: "r"}
        program, *arguments = worker_command(self._reactor)
        descriptors = {**streams, **dict(enumerate(sockets, FIRST_DESCRIPTOR))}
        process.start(program, arguments, path=self._working_folder, childFDs=descriptors)
        process.send("start", self._message(slot.number))

    def _message(self, slot: int) -> dict[str, Any]:
        """Return what a worker has to know. A pipe carries it, because other users can read a command line."""
        descriptor = FIRST_DESCRIPTOR
        listeners = []
        for each in self._listeners:
            count = len(each.sockets)
            descriptors = list(range(descriptor, descriptor + count))
            listeners.append({"description": each.description, "family": each.family, "descriptors": descriptors})
            descriptor += count
        return {
            "slot": slot,
            "settings": self._settings.as_message(),
            "secret": TOKENS.secret.hex(),
            "drain": self._drain,
            "listeners": listeners,
            "routes": self._route_specs,
            "files": [file for listener in self._listeners for file in listener.files()],
            "folder": self._folder,
        }
