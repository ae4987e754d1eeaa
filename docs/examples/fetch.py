"""
Fetch a page through a proxy, once with Twisted's own agent and once with treq.

python fetch.py URL PROXY
"""

import sys

from treq.client import HTTPClient
from twisted.internet.endpoints import clientFromString
from twisted.internet.task import react
from twisted.web.client import HTTPConnectionPool, readBody

from txsocksx_ext import web_agent


async def main(reactor, url, proxy):
    proxy_endpoint = clientFromString(reactor, proxy)
    methods = {"extended": {}, "anonymous": ()}

    # The proxy resolves all names, for http and for https.
    agent = web_agent(reactor, proxy_endpoint, methods)
    response = await agent.request(b"GET", url.encode("ascii"))
    print(response.code, (await readBody(response)).decode().strip())

    # treq takes any agent. A pool reuses connections, so give each identity its own agent and pool.
    pool = HTTPConnectionPool(reactor)
    client = HTTPClient(web_agent(reactor, proxy_endpoint, methods, pool=pool))
    response = await client.get(url)
    print(response.code, (await response.text()).strip())
    await pool.closeCachedConnections()


if __name__ == "__main__":
    react(main, sys.argv[1:])
