"""
Fetch a page of an onion service, or say in one sentence why that failed.

python fetch_onion.py http://ADDRESS.onion/ [PROXY]

PROXY is a client endpoint string of tor's SOCKS port, or of this package's server; tcp:127.0.0.1:9050 unless given.
"""

import sys

import treq
from twisted.internet.endpoints import clientFromString
from twisted.internet.task import react

from txsocksx_ext import web_agent
from txsocksx_ext.errors import OnionClientAuthRequired, OnionServiceNotFound, OnionServiceNotReachable, SOCKS5Error


async def main(reactor, url, proxy="tcp:127.0.0.1:9050"):
    # To tor goes a token that nobody else has: this agent's streams share no circuit with others'. To a server of
    # this package the same token goes as a pair, and with it the wish for Tor's own finer reasons.
    methods = {"isolated": None, "extended": {"tor.errors": "304"}}
    agent = web_agent(reactor, clientFromString(reactor, proxy), methods, timeout=30)
    try:
        response = await treq.get(url, agent=agent)
        print(await response.text(), end="")
    except OnionServiceNotFound as error:
        raise SystemExit(f"Not found: {error}.") from None
    except OnionClientAuthRequired as error:
        raise SystemExit(f"A key is needed: {error}.") from None
    except OnionServiceNotReachable as error:
        raise SystemExit(f"Not reachable: {error}.") from None
    except SOCKS5Error as error:
        raise SystemExit(f"Failed: {error}.") from None


if __name__ == "__main__":
    react(main, sys.argv[1:])
