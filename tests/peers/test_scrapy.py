"""Crawls of scrapy through its download handler of ours, by the protocols that our server speaks."""

import json
import os
import re
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from support.certificates import Authority
from support.peers import peer, version_of_package
from support.programs import free_port, twistd
from support.targets import programs
from twisted.internet.utils import getProcessOutputAndValue

SPIDER = """
import json, scrapy

class Spider(scrapy.Spider):
    name = "spider"
    custom_settings = {
        "DOWNLOAD_HANDLERS": {
            "http": "txsocksx_ext.contrib.scrapy.ProxyDownloadHandler",
            "https": "txsocksx_ext.contrib.scrapy.ProxyDownloadHandler",
        },
        "CONCURRENT_REQUESTS": 1,
        "RETRY_TIMES": 2,
    }

    async def start(self):
        for number, (url, proxy) in enumerate(json.loads(self.requests)):
            yield scrapy.Request(
                url, self.parse, errback=self.failed, meta={"proxy": proxy}, dont_filter=True, priority=-number
            )

    def parse(self, response):
        assert response.meta["download_latency"] > 0
        yield {"size": len(response.body), "proxy": response.meta["proxy"]}

    def failed(self, failure):
        raise failure.value
"""


class Pages(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.asked.append((self.client_address[1], self.path, self.headers))
        body = b"x" * 100_000
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class Target:
    """A web server: its `url`, and for each page the port of its client, the path and the headers."""

    def __init__(self, server, scheme):
        self.asked = server.asked
        self.url = f"{scheme}://localhost:{server.server_port}/"


@pytest.fixture
def target(request, tmp_path):
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        server.asked = []
        if request.param == "https":
            (tmp_path / "pem").write_bytes(Authority().issue("localhost"))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tmp_path / "pem")
            server.socket = context.wrap_socket(server.socket, server_side=True)
        serving = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        yield Target(server, request.param)
        server.shutdown()
        serving.join()


@pytest.fixture
def server(tmp_path):
    """A server of ours that wants a login."""
    (tmp_path / "users").write_text("alice:right\nbob:right\n")
    with programs() as start:
        yield twistd(start, "--auth", f"file:{tmp_path / 'users'}")


async def crawl(folder, requests):
    """Request pages one after another, each by a proxy; return the items, and what scrapy logged."""
    (folder / "spider.py").write_text(SPIDER)
    (folder / "items.json").unlink(missing_ok=True)
    arguments = ["-m", "scrapy", "runspider", "spider.py", "-a", f"requests={json.dumps(requests)}", "-O", "items.json"]
    _, logged, status = await getProcessOutputAndValue(sys.executable, arguments, os.environ, str(folder))
    assert status == 0, logged.decode()
    return json.loads((folder / "items.json").read_text() or "[]"), logged.decode()


@pytest.mark.deadline(120)
@pytest.mark.parametrize(
    ("scheme", "target"), [("socks5", "http"), ("socks5", "https"), ("http", "https")], indirect=["target"]
)
@peer("scrapy", version_of_package("Scrapy"))
async def test_each_proxy_and_login_has_its_own_connections(scheme, server, target, tmp_path):
    proxies = [f"{scheme}://{user}:right@127.0.0.1:{server.port}" for user in ("alice", "bob", "alice")]
    items, logged = await crawl(tmp_path, [(target.url, proxy) for proxy in proxies])
    assert items == [{"size": 100_000, "proxy": f"{scheme}://127.0.0.1:{server.port}"}] * 3, logged
    alice, bob, again = (port for port, *_ in target.asked)
    assert alice == again != bob
    for _, path, headers in target.asked:
        assert path == "/"
        assert "Proxy-Authorization" not in headers
    assert "right" not in logged


def retries(logged):
    return re.findall(r"Retrying .*\(failed \d times\): (.*)", logged)


@pytest.mark.deadline(120)
@peer("scrapy", version_of_package("Scrapy"))
@pytest.mark.parametrize("scheme", ["socks5", "http"])
async def test_what_may_succeed_is_tried_again(scheme, server, tmp_path):
    refusing = f"https://localhost:{free_port()}/"
    login = f"{scheme}://alice:right@127.0.0.1"
    _, logged = await crawl(tmp_path, [(refusing, f"{login}:{server.port}"), (refusing, f"{login}:{free_port()}")])
    reasons = retries(logged)
    assert len(reasons) == 4
    assert sum("the target refused the connection" in each for each in reasons) == 2
    assert sum("the proxy at 127.0.0.1:" in each for each in reasons) == 2


@pytest.mark.deadline(120)
@peer("scrapy", version_of_package("Scrapy"))
@pytest.mark.parametrize("scheme", ["socks5", "http"])
async def test_what_cannot_succeed_is_not_tried_again(scheme, server, tmp_path):
    url = f"https://localhost:{free_port()}/"
    wrong = [f"{scheme}://alice:wrong@127.0.0.1:{server.port}", f"{scheme}://192.0.2.1:{server.port}:1"]
    _, logged = await crawl(tmp_path, [(url, proxy) for proxy in wrong])
    assert retries(logged) == []
    assert "check the user name and password" in logged
    assert "the proxy's URL is malformed" in logged
    assert "wrong" not in logged.replace(json.dumps(wrong[0]), "")
