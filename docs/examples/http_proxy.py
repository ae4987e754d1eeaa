"""
Reach an https server of a private certificate authority through an HTTP proxy, with Agent, treq and ClientService.

python http_proxy.py HOST PORT PROXY AUTHORITY

PROXY is a URL such as http://user:password@127.0.0.1:3128, AUTHORITY the file of the authority's certificate.
"""

import sys
from pathlib import Path

from treq.client import HTTPClient
from twisted.application.internet import ClientService
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import react
from twisted.protocols.basic import LineOnlyReceiver
from twisted.web.client import BrowserLikePolicyForHTTPS, readBody

from txsocksx_ext import HTTPConnectClientEndpoint, web_agent


class StatusReader(LineOnlyReceiver):
    def connectionMade(self):
        self.status = Deferred()
        self.sendLine(b"GET / HTTP/1.0\r\n")

    def lineReceived(self, line):
        if not self.status.called:
            self.status.callback(line.decode())


async def main(reactor, host, port, proxy, authority):
    trust_root = trustRootFromCertificates([Certificate.loadPEM(Path(authority).read_bytes())])
    url = f"https://{host}:{port}/"

    agent = web_agent(reactor, proxy, policy=BrowserLikePolicyForHTTPS(trust_root))
    response = await agent.request(b"GET", url.encode("ascii"))
    print("Agent:", response.code, (await readBody(response)).decode().strip())

    response = await HTTPClient(agent).get(url)
    print("treq:", response.code, (await response.text()).strip())

    # TLS with the target, inside the tunnel. The proxy sees only the host name and the port.
    tls = optionsForClientTLS(host, trustRoot=trust_root)
    endpoint = HTTPConnectClientEndpoint(host, int(port), proxy, tls=tls)
    service = ClientService(endpoint, Factory.forProtocol(StatusReader))
    service.startService()
    reader = await service.whenConnected(failAfterFailures=1)
    print("ClientService:", await reader.status)
    await service.stopService()


if __name__ == "__main__":
    react(main, sys.argv[1:])
