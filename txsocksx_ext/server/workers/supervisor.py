"""
The process that supervises workers: it owns the listening sockets, and what there must be one of.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.logger import Logger

from ...net.timers import clock_of
from ...route.base import IRoute
from ...tor.isolation import TOKENS
from ..settings import ServerSettings
from ..stats import Counters
from ..text_log import LoggingService
from .shared_routes import SharedRouteFactory
from .slots import Slot, WorkerProcess, worker_command
from .sockets import SharedListener, open_listener

END_WITHIN = 10.0
"""Seconds beyond the time to drain; then workers are killed."""

FIRST_DESCRIPTOR = 3
"""The number of the first listening socket in a worker: before it are its standard streams."""

_log = Logger(namespace="txsocksx_ext.server")


class WorkersService(LoggingService):
    """
    Listens, and has several processes serve.

    Each worker accepts from sockets of its own, which stay open here: when it
    dies, another accepts from them until the next one is ready.

    :param reactor: to listen and to start processes with.
    :param settings: those of each worker.
    :param listeners: Twisted server endpoint strings, of kinds that can be shared.
    :param workers: how many.
    :param drain: how many seconds open streams have to end by themselves.
    """

    def __init__(
        self, reactor: Any, settings: ServerSettings, listeners: Iterable[str], workers: int, drain: float = 10.0
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._descriptions = list(listeners)
        self._drain = drain
        # Files in the settings are named as seen from here; a daemon may go elsewhere.
        self._working_folder = os.getcwd()
        self._routes = MultiService()
        self._shared_routes = dict(settings.routes_run_once(reactor))
        for route in self._shared_routes.values():
            assert route.service is not None
            route.service.setServiceParent(self._routes)
        self._slots = [Slot(reactor, number, self._spawn, self._changed) for number in range(workers)]
        self._listeners: list[SharedListener] = []
        self._taken_by: dict[Slot, WorkerProcess] = {}
        self._folder = ""
        self._ways: dict[str, dict[str, Any]] = {}
        self._doors: list[Any] = []

    @property
    def counters(self) -> Counters:
        """What all workers have done."""
        return Counters.sum_of(slot.counters for slot in self._slots)

    def privilegedStartService(self) -> None:
        """Listen, as long as the process may open any port."""
        super().privilegedStartService()
        self._listen()

    def _listen(self) -> None:
        for description in self._descriptions:
            opened = open_listener(self._reactor, description, len(self._slots))
            self._listeners.append(opened)
            _log.info("{workers} workers, starting on {where}", workers=len(self._slots), where=opened.where)

    def startService(self) -> None:
        """Start the routes of which there is one, and the workers."""
        super().startService()
        if not self._listeners:  # twist starts services only so
            self._listen()
        self._routes.startService()
        if self._shared_routes:
            self._folder = tempfile.mkdtemp(prefix="socks5ext-")
        for description, route in self._shared_routes.items():
            self._ways[description] = self._open_door(route)
        for slot in self._slots:
            slot.start()

    async def _stop_all(self) -> None:
        for slot in self._slots:
            slot.stop()
        for listener in self._listeners:
            await listener.close()
        self._listeners = []
        ending = DeferredList([each for slot in self._slots for each in slot.ended()])
        deadline = clock_of(self._reactor).callLater(self._drain + END_WITHIN, self._kill_all)
        await ending
        if deadline.active():
            deadline.cancel()
        self.counters.write_to_log()
        # The streams that drained needed their routes.
        for port, factory in self._doors:
            await maybeDeferred(port.stopListening)
            await factory.drain(0)
        self._doors = []
        await maybeDeferred(self._routes.stopService)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def stopService(self) -> Deferred[None]:
        """
        Stop listening, let the workers drain, then stop the routes.

        Where a command runs it, another SIGINT or SIGTERM ends the draining.

        :returns: fires when no worker is left, and nothing runs.
        """
        self.on_another_signal(self._reactor, self._hurry_all)
        super().stopService()
        return Deferred.fromCoroutine(self._stop_all())

    def _hurry_all(self) -> None:
        for slot in self._slots:
            slot.hurry()

    def _kill_all(self) -> None:
        for slot in self._slots:
            slot.kill()

    def _open_door(self, route: IRoute) -> dict[str, Any]:
        """Listen for workers that need a route; what they have to know of it."""
        path = os.path.join(self._folder, f"route-{len(self._doors)}")
        factory = SharedRouteFactory(self._reactor, route, self._settings.limits, self._settings.log_targets)
        # The folder is this user's alone.
        port = self._reactor.listenUNIX(path, factory, backlog=4096, mode=0o600)
        self._doors.append((port, factory))
        return {
            "path": path,
            "name": getattr(route, "name", ""),
            "keys": sorted(getattr(route, "keys", ())),
            "uses_credentials": getattr(route, "uses_credentials", False),
        }

    def _spawn(self, slot: Slot, process: WorkerProcess) -> None:
        sockets = [each.fileno() for listener in self._listeners for each in listener.sockets]
        streams: dict[int, Any] = {0: "w", 1: "r", 2: "r"}
        command = worker_command(self._reactor)
        self._reactor.spawnProcess(
            process,
            command[0],
            command,
            env=None,
            path=self._working_folder,
            childFDs={**streams, **dict(enumerate(sockets, FIRST_DESCRIPTOR))},
        )
        process.say("start", self._message(slot.number))

    def _message(self, slot: int) -> dict[str, Any]:
        """Return all that a worker has to know. It goes through a pipe, since others can see a command line."""
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
            "routes": self._ways,
            "files": [file for listener in self._listeners for file in listener.files()],
            "folder": self._folder,
        }

    def _changed(self) -> None:
        """Have each slot's sockets accepted from: by its own worker, or by another while that one is away."""
        ready = [each for each in self._slots if each.is_ready]
        for each in self._slots:
            deputy = self._taken_by.get(each)
            if each.is_ready:
                if deputy is not None:
                    deputy.say("leave", each.number)
                    del self._taken_by[each]
            elif ready and (deputy is None or all(deputy is not other.process for other in ready)):
                chosen = ready[each.number % len(ready)].process
                assert chosen is not None
                chosen.say("take", each.number)
                self._taken_by[each] = chosen
