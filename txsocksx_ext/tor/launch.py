"""
A tor of our own, by txtorcon.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, quoteStringArgument
from twisted.logger import Logger

from .control import ControlConnection
from .instance import TorInstance

_log = Logger(namespace="txsocksx_ext.tor")


def launched_tor(
    reactor: Any, program: str | None = None, torrc: str | None = None, state: str | None = None
) -> TorInstance:
    """
    A tor that runs as our child while its control connection, a service, runs.

    It is started again, after growing pauses, when it ends.

    :param program: the path of tor; by default the one that txtorcon finds.
    :param torrc: a file of further options, which those of ours override.
    :param state: a folder that outlives the process, so that tor starts faster;
        by default one that does not.
    """
    instance = TorInstance(reactor, None, name="launch")

    async def launch() -> Any:
        import txtorcon

        config = txtorcon.TorConfig()
        if torrc is not None:
            # txtorcon gives tor no torrc, but passes names and values on as they are.
            setattr(config, "--defaults-torrc", torrc)
        instance.socks = None
        tor = await txtorcon.launch(
            reactor,
            progress_updates=_show_progress,
            data_directory=state,
            tor_binary=program,
            kill_on_stderr=False,
            _tor_config=config,
        )
        instance.socks = await _socks_endpoint(reactor, tor)
        return tor

    instance.control = ControlConnection(reactor, lambda: Deferred.fromCoroutine(launch()), "our own tor")
    return instance


async def _socks_endpoint(reactor: Any, tor: Any) -> Any:
    return clientFromString(reactor, await socks_listener(tor))


async def socks_listener(tor: Any) -> str:
    """
    A client endpoint string for the first SOCKS port that a tor listens on.

    :param tor: a `txtorcon.Tor`.
    :raises LookupError: it listens on none.
    """
    answer = await tor.protocol.get_info("net/listeners/socks")
    listeners = [word.strip('"') for word in str(answer["net/listeners/socks"]).split()]
    if not listeners:
        raise LookupError("this tor listens on no SOCKS port")
    first = listeners[0]
    if first.startswith("unix:"):
        return f"unix:{quoteStringArgument(first.removeprefix('unix:'))}"
    host, _, port = first.rpartition(":")
    return f"tcp:{quoteStringArgument(host.strip('[]'))}:{port}"


def _show_progress(percent: int, tag: str, summary: str) -> None:
    _log.info("our own tor bootstraps: {percent} % {summary}", percent=int(percent), summary=summary)
