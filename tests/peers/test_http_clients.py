"""Node's proxy agents and Chromium at our server: HTTP CONNECT, and SOCKS on the same port."""

import subprocess

import pytest
from support.https import https_files
from support.node import run_node, version_of_package
from support.peers import peer, version_from
from support.programs import free_port, has_written, need, twistd
from support.targets import PAGE, content, programs

SENT = content(5)

HTTPS_PROXY_AGENT = """
import http from 'node:http';
import { HttpsProxyAgent } from 'https-proxy-agent';
const [proxy, url] = process.argv.slice(1).filter(each => each !== '--');
const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const body = Buffer.concat(chunks);
const request = http.request(url, {
  agent: new HttpsProxyAgent(proxy), method: body.length ? 'POST' : 'GET', headers: {'Content-Length': body.length},
}, response => {
  if (response.statusCode !== 200) process.exitCode = 1;
  response.pipe(process.stdout);
});
request.on('error', error => { console.error(error.message); process.exitCode = 1; });
request.end(body);
"""

UNDICI = """
import { ProxyAgent, request } from 'undici';
const [proxy, url] = process.argv.slice(1).filter(each => each !== '--');
const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const body = Buffer.concat(chunks);
try {
  const options = body.length ? {method: 'POST', body} : {};
  const response = await request(url, {dispatcher: new ProxyAgent({uri: proxy, proxyTunnel: true}), ...options});
  process.stdout.write(Buffer.from(await response.body.arrayBuffer()));
  process.exitCode = response.statusCode === 200 ? 0 : 1;
} catch (error) {
  console.error(error.message, error.cause?.message ?? '');
  process.exitCode = 1;
}
process.stdout.end();
"""

AGENTS = {
    "https-proxy-agent": (HTTPS_PROXY_AGENT, "the target refused the connection"),
    "undici": (UNDICI, "Proxy response (502)"),
}
each_agent = pytest.mark.parametrize(
    ("script", "said"),
    [pytest.param(*AGENTS[name], id=name, marks=peer(name, version_of_package(name))) for name in AGENTS],
)


@pytest.fixture(scope="module")
def server():
    with programs() as start:
        yield twistd(start)


@pytest.fixture(scope="module")
def guarded():
    with programs() as start:
        yield twistd(start, "--auth=memory:alice:right")


@each_agent
@pytest.mark.parametrize("login", ["", "alice:right@"])
def test_an_agent_of_node_moves_a_page_and_a_form(server, guarded, web_port, script, said, login):
    proxy = f"http://{login}127.0.0.1:{(guarded if login else server).port}"
    fetched = run_node(script, proxy, f"http://localhost:{web_port}/")
    assert (fetched.returncode, fetched.stdout) == (0, PAGE), fetched.stderr
    posted = run_node(script, proxy, f"http://localhost:{web_port}/", given=SENT)
    assert (posted.returncode, posted.stdout) == (0, SENT), posted.stderr


@each_agent
def test_an_agent_of_node_is_told_that_a_target_refused(server, script, said):
    failed = run_node(script, f"http://127.0.0.1:{server.port}", f"http://127.0.0.1:{free_port()}/")
    assert failed.returncode == 1
    assert said in (failed.stdout + failed.stderr).decode()


@pytest.mark.parametrize("scheme", ["http", "socks4", "socks5"])
@pytest.mark.peer("Chromium", version_from("chromium", "--version"))
def test_chromium_loads_a_page(server, authority, tmp_path, scheme):
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "index.html").write_text("<title>a page</title><p>loaded through the proxy")
    with https_files(folder, authority.trusted_server(tmp_path)) as port:
        done = subprocess.run(
            [
                *(need("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--ignore-certificate-errors"),
                *(f"--user-data-dir={tmp_path / 'profile'}", f"--proxy-server={scheme}://127.0.0.1:{server.port}"),
                # Chromium goes past the proxy to this machine otherwise.
                *("--proxy-bypass-list=<-loopback>", "--dump-dom", f"https://127.0.0.1:{port}/"),
            ],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert "loaded through the proxy" in done.stdout, done.stderr
    assert has_written(server, f"CONNECT protocol={scheme} method=NO_AUTHENTICATION")
