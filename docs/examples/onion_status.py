"""
Print whether an onion service answers and, if not, whether it does not exist or is not reachable.

python onion_status.py ADDRESS.onion PORT [PROXY]

PROXY is a client endpoint string; the default is tcp:127.0.0.1:1080.
"""

import sys

from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.task import react

from txsocksx_ext import SOCKS5ClientEndpoint
from txsocksx_ext.errors import OnionServiceNotFound, OnionServiceNotReachable, ReplyError, SOCKS5Error


async def main(reactor, host, port, proxy="tcp:127.0.0.1:1080"):
    # "extended" offers method 0x97, which allows the proxy to send extended reply codes.
    methods = {"extended": {}, "anonymous": ()}
    endpoint = SOCKS5ClientEndpoint(host, int(port), clientFromString(reactor, proxy), methods)
    try:
        protocol = await connectProtocol(endpoint, Protocol())
    except OnionServiceNotFound as error:
        print("not found:", error)
    except OnionServiceNotReachable as error:
        print("not reachable:", error)
    except ReplyError as error:
        print(f"failed with reply code {error.code}:", error)
    except SOCKS5Error as error:
        print(error)
    else:
        print("the service answers")
        protocol.transport.loseConnection()


if __name__ == "__main__":
    react(main, sys.argv[1:])
