"""What streams go to in the private Tor network, one target for each way in which they fail."""

from contextlib import asynccontextmanager

from twisted.internet.threads import deferToThread

from support.tornet import (
    CLOSED_PORT,
    ECHO_PORT,
    NOT_OFFERED_PORT,
    REFUSED_PORT,
    VERSION_2_ADDRESS,
    bad_checksum,
    never_published,
)

NO_KEY = "client authorization, and tor has no key"
WRONG_KEY = "client authorization, and tor has a wrong key"
RIGHT_KEY = "client authorization, and tor has the right key"
KILLED = "a service that was killed"
STOPPED = "a service that is stopped, after tor's ``SocksTimeout``"

TARGETS = {
    "an onion service": lambda network: (network.onion, ECHO_PORT),
    "no descriptor: there is no such service": lambda _: (never_published(), ECHO_PORT),
    "an address whose checksum is wrong": lambda _: (bad_checksum(), ECHO_PORT),
    "an address of version 2": lambda _: (VERSION_2_ADDRESS, ECHO_PORT),
    NO_KEY: lambda network: (network.locked_onion, ECHO_PORT),
    WRONG_KEY: lambda network: (network.locked_onion, ECHO_PORT),
    RIGHT_KEY: lambda network: (network.locked_onion, ECHO_PORT),
    STOPPED: lambda network: (network.mortal_onion, ECHO_PORT),
    KILLED: lambda network: (network.mortal_onion, ECHO_PORT),
    "a port that the service does not offer": lambda network: (network.onion, NOT_OFFERED_PORT),
    "a port of the service whose backend does not listen": lambda network: (network.onion, CLOSED_PORT),
    "a name that does not exist, by an exit": lambda _: ("missing.test", 80),
    "a port that does not listen, by an exit": lambda _: ("echo.test", 1),
    "a port that no exit allows": lambda _: ("echo.test", REFUSED_PORT),
}
TRIES = {NO_KEY: 4, RIGHT_KEY: 2, KILLED: 4, STOPPED: 4}
"""
Where tor's answer depends on its own clocks: a table has what it usually says.

When it has asked all directories about a service that it cannot decrypt, it says 04 once; two of its timers race to
give up a service that is silent; an introduction point may not know yet that its service is gone; and where many ask
for one service at once, a rendezvous can take longer than they wait.
"""


@asynccontextmanager
async def prepared(network, title):
    """Bring about what the target's title says."""
    client = network.client
    if title in (WRONG_KEY, RIGHT_KEY):
        key = network.wrong_key if title == WRONG_KEY else network.right_key
        client.add_key(network.locked_onion, key.private)
    elif title == KILLED:
        await deferToThread(network.revive_service)
        await deferToThread(network.kill_service)
    elif title == STOPPED:
        await deferToThread(network.revive_service)
        client.control.set_conf(SocksTimeout=2)
        network.stop_service()
        # A busy machine may need longer than two seconds for this.
        await deferToThread(client.fetch_descriptor, network.mortal_onion)
    try:
        yield
    finally:
        if title in (WRONG_KEY, RIGHT_KEY):
            client.remove_key(network.locked_onion)
        elif title == STOPPED:
            network.continue_service()
            client.control.command("RESETCONF SocksTimeout")
