"""
Fetch a page of an onion service, or print in one sentence why that failed.

python fetch_onion.py http://ADDRESS.onion/ [PROXY]

PROXY is a client endpoint string of tor's SOCKS port or of this package's server; the default is
tcp:127.0.0.1:9050.
"""

import sys

import treq
from twisted.internet.endpoints import clientFromString
from twisted.internet.task import react

from txsocksx_ext import web_agent
from txsocksx_ext.errors import OnionClientAuthRequired, OnionServiceNotFound, OnionServiceNotReachable, SOCKS5Error


async def main(reactor, url, proxy="tcp:127.0.0.1:9050"):
    # A unique isolation token keeps this agent's streams off other circuits. This package's server gets it as a pair,
    # and "tor.errors" asks that server for Tor's own finer reasons.
    methods = {"isolated": None, "extended": {"tor.errors": "304"}}
    agent = web_agent(reactor, clientFromString(reactor, proxy), methods, timeout=30)
    try:
        response = await treq.get(url, agent=agent)
        print(await response.text(), end="")
    except OnionServiceNotFound as error:
        raise SystemExit(f"Not found: {error}.") from None
    except OnionClientAuthRequired as error:
        raise SystemExit(f"Key required: {error}.") from None
    except OnionServiceNotReachable as error:
        raise SystemExit(f"Not reachable: {error}.") from None
    except SOCKS5Error as error:
        raise SystemExit(f"Failed: {error}.") from None


if __name__ == "__main__":
    react(main, sys.argv[1:])
