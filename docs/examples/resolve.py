"""
Resolve a name and an address through a proxy. Tor and this package's server support that; most other proxies do not.

python resolve.py NAME ADDRESS PROXY
"""

import sys

from twisted.internet.endpoints import clientFromString
from twisted.internet.task import react

from txsocksx_ext import resolve, resolve_ptr
from txsocksx_ext.errors import CommandNotSupported, HostUnreachable


async def main(reactor, name, address, proxy):
    proxy_endpoint = clientFromString(reactor, proxy)
    for asked, look_up in ((name, resolve), (address, resolve_ptr)):
        try:
            print(asked, "is", await look_up(asked, proxy_endpoint))
        except HostUnreachable:
            print(asked, "was not found")
        except CommandNotSupported:
            print("this proxy does not support lookups")


if __name__ == "__main__":
    react(main, sys.argv[1:])
