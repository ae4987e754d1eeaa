"""
What Twisted finds of txsocksx_ext: a service, endpoint strings, a checker.

twistd loads this file for every command, so it imports nothing heavy.
"""

from twisted.application.service import ServiceMaker
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.strcred import ICheckerFactory, InvalidAuthArgumentString
from twisted.internet.interfaces import IStreamClientEndpointStringParserWithReactor
from twisted.plugin import IPlugin
from zope.interface import implementer


@implementer(IPlugin, IStreamClientEndpointStringParserWithReactor)
class _EndpointParser:
    def __init__(self, prefix):
        self.prefix = prefix

    def parseStreamClient(self, reactor, /, *args, **kwargs):
        from txsocksx_ext.client.strings import endpoint_from_arguments

        return endpoint_from_arguments(self.prefix, reactor, args, kwargs)


@implementer(IPlugin, ICheckerFactory)
class _HashedPasswordFileFactory:
    authType = "hashed"
    authHelp = (
        "A file of NAME:HASH lines with Argon2 hashes.\n"
        "To add one: python -m txsocksx_ext.server.passwords set FILE NAME"
    )
    argStringFormat = "The path of the file."
    credentialInterfaces = (IUsernamePassword,)

    def generateChecker(self, argstring):
        from txsocksx_ext.server.auth import HashedPasswordFile

        if not argstring:
            raise InvalidAuthArgumentString("it needs the path of a file, as in hashed:FILE")
        try:
            return HashedPasswordFile(argstring)
        except OSError as error:
            raise InvalidAuthArgumentString(f"the file {argstring} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise InvalidAuthArgumentString(str(error)) from None


socks5ext_service = ServiceMaker(
    "txsocksx_ext", "txsocksx_ext.tap", "A SOCKS5 proxy with the extensions of Tor's proposal 229.", "socks5ext"
)
socks5ext_endpoint = _EndpointParser("socks5ext")
httpconnect_endpoint = _EndpointParser("httpconnect")
socks4a_endpoint = _EndpointParser("socks4a")
hashed_password_file = _HashedPasswordFileFactory()
