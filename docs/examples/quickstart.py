"""
Fetch a web page through a proxy.

python quickstart.py [URL [PROXY]]

Without a URL, the program serves a page itself. PROXY is the proxy's URL; the default is socks5://127.0.0.1:1080.
"""

import sys

import treq
from twisted.internet.task import react
from twisted.web.resource import Resource
from twisted.web.server import Site
from twisted.web.static import Data

from txsocksx_ext import web_agent
from txsocksx_ext.errors import ProxyUnreachable, SOCKS5Error


def serve_page(reactor):
    """Serve a page on a free port of this machine and return its URL."""
    root = Resource()
    root.putChild(b"", Data(b"hello through the proxy", "text/plain"))
    port = reactor.listenTCP(0, Site(root), interface="127.0.0.1")
    return f"http://localhost:{port.getHost().port}/"


async def main(reactor, url=None, proxy="socks5://127.0.0.1:1080"):
    agent = web_agent(reactor, proxy)
    try:
        response = await treq.get(url or serve_page(reactor), agent=agent)
        print(await response.text())
    except ProxyUnreachable:
        sys.exit(f"No proxy answers at {proxy}. Start one with `make serve`, or name another one.")
    except SOCKS5Error as error:
        sys.exit(f"The proxy could not connect: {error}")


if __name__ == "__main__":
    react(main, sys.argv[1:])
