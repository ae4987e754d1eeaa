"""What applications do with each exception of ours: their own handlers, held against its `retry`."""

import inspect
import warnings
from importlib.util import find_spec
from pathlib import Path

from support.peers import peer, version_of_package
from twisted.internet.defer import fail
from twisted.internet.error import ConnectError, ConnectionRefusedError, DNSLookupError
from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface import implementer

from txsocksx_ext import errors
from txsocksx_ext.errors import Retry

HEADS = {errors.SOCKS5Error, errors.ReplyError, errors.OnionServiceError, errors.TransportError}
RAISED = {
    each for each in vars(errors).values() if inspect.isclass(each) and issubclass(each, errors.SOCKS5Error)
} - HEADS
WORTH_A_RETRY = {each for each in RAISED if each.retry is not Retry.NEVER}


@peer("scrapy", version_of_package("Scrapy"))
def test_scrapy_retries_what_may_succeed():
    from scrapy.settings.default_settings import RETRY_EXCEPTIONS
    from scrapy.utils._download_handlers import wrap_twisted_exceptions
    from scrapy.utils.misc import load_object

    retried = tuple(load_object(each) if isinstance(each, str) else each for each in RETRY_EXCEPTIONS)

    def is_retried(error):
        try:
            with wrap_twisted_exceptions():
                raise error()
        except retried:
            return True
        except Exception:
            return False

    assert {each for each in RAISED if is_retried(each)} == WORTH_A_RETRY


@peer("magic-wormhole", version_of_package("magic-wormhole"))
def test_magic_wormhole_goes_on_after_what_may_succeed():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it imports is deprecated
        from wormhole._dilation.connector import Connector

    # No name holds what it traps from its connections to peers.
    source = inspect.getsource(Connector)
    assert "ConnectError,\n" in source
    assert "f.trap(DNSLookupError)" in source
    assert {each for each in RAISED if issubclass(each, (ConnectError, DNSLookupError))} == WORTH_A_RETRY


@peer("foolscap", version_of_package("foolscap"))
async def test_foolscap_reports_the_message():
    from foolscap.api import Tub, flushEventualQueue
    from foolscap.ipb import IConnectionHintHandler

    @implementer(IConnectionHintHandler, IStreamClientEndpoint)
    class Failing:
        def __init__(self, error):
            self._error = error

        def hint_to_endpoint(self, hint, reactor, update_status):
            return self, "name.example"

        def connect(self, factory):
            return fail(self._error)

    async def reported(error):
        tub = Tub()
        tub.removeAllConnectionHintHandlers()
        tub.addConnectionHintHandler("tcp", Failing(error))
        tub.startService()
        furl = f"pb://{'a' * 32}@tcp:name.example:1/name"
        reconnecting = tub.connectTo(furl, None)
        while reconnecting.getReconnectionInfo().state != "waiting":
            await flushEventualQueue()
        (status,) = reconnecting.getReconnectionInfo().connectionInfo.connectorStatuses.values()
        reconnecting.stopConnecting()
        await tub.stopService()
        return status

    for each in RAISED:
        expected = f"failed to connect: {each().message}"
        if issubclass(each, ConnectionRefusedError):
            expected = "connection refused"
        assert await reported(each()) == expected


@peer("Synapse", version_of_package("matrix-synapse"))
def test_synapse_takes_these_for_names_that_do_not_exist():
    # The one class of Twisted's that its federation client tells from others. It retries after every other exception.
    # Read, not imported: Synapse refuses to be imported beside a version of txredisapi that it does not know.
    package = Path(find_spec("synapse").origin).parent
    assert "except DNSLookupError as e:" in (package / "http/matrixfederationclient.py").read_text()
    failed_lookups = {each for each in RAISED if issubclass(each, DNSLookupError)}
    assert failed_lookups == {
        errors.HostUnreachable,
        errors.OnionServiceNotFound,
        errors.OnionDescriptorNotFound,
        errors.ProxyNotFound,
    }
