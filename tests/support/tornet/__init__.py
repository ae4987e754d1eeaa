"""
A private Tor network on 127.0.0.1, of real tor processes: authority, six relays, clients, onion hosts.

Tests take the session's fixture ``tor_network`` (``tests/real/conftest.py``); it takes 10 to 15 seconds at its
first use. All of it blocks, and nothing needs a reactor: in an ``async def`` test, call what may wait (all that is
marked * below) in `deferToThread`, from one thread at a time.

Who is there
    ``network.client``              a `TorClient`: default SocksTimeout (120 s), control by cookie
    ``network.impatient_client``    * another: SocksTimeout 12, control by `CONTROL_PASSWORD`
    ``network.add_client(*torrc)``  * one more, with lines of yours; ``wait=False`` does not wait for its bootstrap,
                                    ``password=`` is instead of the cookie. About 2 s; ``client.remove()`` ends it
    ``network.relays``, ``.authority``, ``.host``, ``.mortal_host``, ``.processes``    plain `Tor` objects

A `TorClient`
    ``plain_port``, ``extended_port``, ``plain_socket``, ``extended_socket``    SOCKS, tcp and unix, without and with
                                    ExtendedErrors
    ``control_port``, ``control_socket``, ``cookie_file``, ``password``    control; all ports outlive a restart
    ``add_key(onion, private)``, ``remove_key(onion)``    client authorization
    ``forget_circuits(onion)``      close its circuits to a service
and any `Tor`
    ``control.command(line)``, ``control.info(key)``, ``control.set_conf(SocksTimeout=4)``    or ``connect_control()``
    ``with tor.events("STREAM", "HS_DESC") as events: … events.wait_for("HS_DESC FAILED", "NOT_FOUND")``; all
                                    that came: ``events.seen``
    ``start()``, ``stop()``, ``kill()``, ``restart(kill=True)`` *, ``pause()``, ``resume()``, ``is_running``, ``pid``
    ``wait_until_listening()`` *, ``wait_until_bootstrapped(100)`` *, ``log``

Onion services; each has `ECHO_PORT`, `WEB_PORT` and `CLOSED_PORT` (nothing listens there), not `NOT_OFFERED_PORT`
    ``network.onion``               works
    ``network.locked_onion``        wants ``network.right_key.private``; ``wrong_key`` is a key as well
    ``network.mortal_onion``        works, and may be killed and stopped:
    ``network.kill_service()``      * 3 to 8 s. From then on F2 (04 on plain ports): in up to 6 s at a client's first
                                    question, then in 0.1 s
    ``network.stop_service()``      06 when SocksTimeout is over; ``continue_service()``
    ``network.revive_service()``    * back to life, from any state; 3 s and a new address if it was killed
    ``network.half_published_onion()``    * a new service that some directories do not know: F0, *and* connected
All of these say the address. Call ``revive_service()`` first, where a test needs ``mortal_onion`` alive.
One client may ask about a locked or a killed service about five times in five seconds: then it has asked every
directory, and the next answer is 04 on every port.

Addresses that lead nowhere: `never_published` (a new one for each question, else tor may answer 04 without asking
again), `bad_checksum`, `VERSION_2_ADDRESS`.

Through exits: ``network.servers.echo_port`` and ``.web_port`` of ``echo.test`` and ``web.test`` (both 127.0.0.1);
``silent.test`` is never answered, other names do not exist; `POINTERS` are the addresses with a name. No exit allows
`REFUSED_PORT`. The web server's ``/bytes/N`` has N bytes, other paths a line with path and host.

`socks.request` is a raw blocking SOCKS client that tells the very code that tor answers.
"""

from . import socks
from .client import TorClient
from .control import Control, ControlError, Events
from .network import CONTROL_PASSWORD, REFUSED_PORT, TorNetwork, start_network
from .onions import (
    CLOSED_PORT,
    ECHO_PORT,
    NOT_OFFERED_PORT,
    VERSION_2_ADDRESS,
    WEB_PORT,
    bad_checksum,
    never_published,
)
from .process import Tor
from .servers import POINTERS, SILENT_NAME

__all__ = [
    "CLOSED_PORT",
    "CONTROL_PASSWORD",
    "ECHO_PORT",
    "NOT_OFFERED_PORT",
    "POINTERS",
    "REFUSED_PORT",
    "SILENT_NAME",
    "VERSION_2_ADDRESS",
    "WEB_PORT",
    "Control",
    "ControlError",
    "Events",
    "Tor",
    "TorClient",
    "TorNetwork",
    "bad_checksum",
    "never_published",
    "socks",
    "start_network",
]
