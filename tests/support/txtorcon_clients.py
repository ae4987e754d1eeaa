"""txtorcon's own SOCKS client and ours, for the tests that hold one beside the other."""

import txtorcon
from twisted.internet.protocol import Factory
from txtorcon import socks as txtorcon_socks

import txsocksx_ext
from support.scripted_socks import settle
from txsocksx_ext import SOCKS5ClientEndpoint
from txsocksx_ext import tor as for_programs
from txsocksx_ext.testing import Recorder

HERE = "txsocksx_ext.tor"


def uncontrolled_tor():
    from twisted.internet import reactor

    return txtorcon.Tor(reactor, None)


class Theirs:
    """txtorcon's own client, as programs reach it."""

    column = "txtorcon"

    def endpoint(self, host, socks, **_):
        return uncontrolled_tor().stream_via(host, 80, socks_endpoint=socks)

    def agent(self, socks, **_):
        return uncontrolled_tor().web_agent(socks_endpoint=socks)

    resolve = staticmethod(txtorcon_socks.resolve)
    resolve_ptr = staticmethod(txtorcon_socks.resolve_ptr)

    def with_login(self, socks):
        return txtorcon.TorClientEndpoint("example.com", 80, socks, socks_username="alice", socks_password="secret")

    def host_told(self, address):
        return address.host

    def port_told(self, address):
        return address.port


class Ours:
    column = HERE

    def endpoint(self, host, socks, **options):
        return for_programs.stream_via(uncontrolled_tor(), host, 80, socks_endpoint=socks, **options)

    def agent(self, socks, **options):
        return for_programs.web_agent(uncontrolled_tor(), socks_endpoint=socks, **options)

    # What resolve() of txsocksx_ext.tor calls when it has found the port.
    def resolve(self, socks, name):
        return txsocksx_ext.resolve(name, socks, {"isolated": None}, dialect="tor")

    def resolve_ptr(self, socks, address):
        return txsocksx_ext.resolve_ptr(address, socks, {"isolated": None}, dialect="tor")

    def with_login(self, socks):
        return SOCKS5ClientEndpoint("example.com", 80, socks, {"login": ("alice", "secret")})

    def host_told(self, address):
        return address.bound.host

    def port_told(self, address):
        return address.bound.port


class Attempt:
    """Something that was begun, and what became of it: ``value`` or ``error``."""

    def __init__(self, begin):
        self.value = self.error = None
        self.is_over = False
        self.failed_at_once = False
        try:
            self.deferred = begin()
        except Exception as error:
            self.failed_at_once = True
            self._failed(error)
        else:
            self.deferred.addCallbacks(self._fired, lambda failure: self._failed(failure.value))

    def _fired(self, value):
        self.value, self.is_over = value, True

    def _failed(self, error):
        self.error, self.is_over = error, True

    async def words(self, success="connects"):
        """What became of it; where nothing does any more, it never will."""
        if not await settle(lambda: self.is_over):
            return "waits for ever"
        if self.error is None:
            return success
        return f"{words_for(self.error)} at once" if self.failed_at_once else words_for(self.error)


def words_for(error):
    code = getattr(error, "code", None)
    if not isinstance(error, txtorcon_socks.SocksError):
        return f"``{type(error).__name__}``"
    if code is None and type(error) is txtorcon_socks.SocksError:
        return "``SocksError``, no code"
    name = f"``{type(error).__name__}``"
    if code == type(error).code:
        return name
    return f"{name}, no code" if code is None else f"{name}, code {shown_code(error)}"


def shown_code(error):
    """The code that came, if one did; that of success without an error."""
    if error is None:
        return "``00``"
    return "no code" if error.code is None else f"``{error.code:02X}``"


async def connected(client, port, kind=Recorder, host="example.com"):
    """The application's end and the port's end of a new connection."""
    attempt = Attempt(lambda: client.endpoint(host, port).connect(Factory.forProtocol(kind)))
    assert await settle(lambda: attempt.is_over)
    assert attempt.error is None
    return attempt.value, port.connection
