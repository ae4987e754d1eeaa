"""The status page in Chromium: it is live, and pages of other origins end nothing."""

import contextlib
import socket

import pytest
from examples.raw_peers import GREET_ANONYMOUS, request
from support.chromium import Chromium, CommandFailed
from support.peers import peer, version_from
from support.programs import free_port, twistd
from support.targets import Target, echo, programs, read_exactly

pytestmark = peer("Chromium", version_from("chromium", "--version"))


@pytest.fixture(scope="module")
def status_port():
    return free_port()


@pytest.fixture(scope="module")
def server(status_port):
    with programs() as start:
        yield twistd(start, f"--status=tcp:{status_port}:interface=127.0.0.1", "--log-targets")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with contextlib.closing(Chromium(tmp_path_factory.mktemp("profile"))) as opened:
        yield opened


@pytest.fixture
def stream(server):
    """A stream to an echoing target, through the server."""
    with Target(echo) as far, socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(GREET_ANONYMOUS + request("127.0.0.1", far.port))
        assert read_exactly(client, 12)[:4] == b"\x05\x00\x05\x00"
        yield client


def send(stream, count):
    stream.sendall(bytes(count))
    assert read_exactly(stream, count) == bytes(count)


def cell(name):
    """The text of a column in the only row of the table of sessions."""
    return f"document.querySelector('#sessions td[data-name=\"{name}\"]')?.textContent"


def test_figures_change_while_a_stream_runs(browser, stream, status_port):
    browser.open(f"http://127.0.0.1:{status_port}/")
    browser.until("document.querySelector('[data-name=\"open connections\"]')?.textContent === '1'")
    browser.evaluate("window.isTheSame = true")
    send(stream, 2000)
    browser.until(f"{cell('Down')} === '2.0 kB'")
    send(stream, 500_000)
    browser.until(f"{cell('Up')} === '502 kB'")
    # The curve has risen and fallen again.
    browser.until("rates.down.some(each => each > 1000) && rates.down.at(-1) === 0")
    assert browser.evaluate("window.isTheSame")
    assert browser.evaluate("document.getElementById('state').textContent") == "serving"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(browser, stream, status_port, scheme):
    browser.call("Emulation.setDeviceMetricsOverride", width=360, height=800, deviceScaleFactor=2, mobile=True)
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(f"http://127.0.0.1:{status_port}/")
    browser.until(f"{cell('Client')} === '127.0.0.1'")
    assert browser.evaluate("document.documentElement.scrollWidth") == 360
    light = browser.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert all(each > 200 for each in light) if scheme == "light" else all(each < 50 for each in light)


def test_its_button_ends_a_session_when_it_is_pressed_twice(browser, stream, status_port):
    browser.open(f"http://127.0.0.1:{status_port}/")
    browser.until("document.querySelector('#sessions button')?.textContent === 'End'")
    browser.evaluate("document.querySelector('#sessions button').click()")
    browser.until("document.querySelector('#sessions button')?.textContent === 'End it?'")
    send(stream, 10)
    browser.evaluate("document.querySelector('#sessions button').click()")
    with pytest.raises(ConnectionResetError):
        stream.recv(1)
    browser.until("document.getElementById('sessions').textContent === 'None.'")


TRY = """
(async () => {
  const status = 'http://HOST/', headers = {'X-Socks5ext': '1'}, results = [];
  for (const path of ['sessions/ID/end', 'users/NAME/end'])
    for (const options of [{}, {headers}, {mode: 'no-cors'}, {mode: 'no-cors', headers}])
      results.push(await fetch(status + path, {method: 'POST', ...options}).then(got => got.type, () => 'failed'));
  results.push(await fetch(status + 'sessions').then(() => 'read', () => 'failed'));
  return results.join(' ');
})()
"""
SUBMIT = """
const form = document.createElement('form');
form.method = 'POST';
form.action = 'http://HOST/sessions/ID/end';
document.body.append(form);
form.submit();
"""


def test_a_page_of_another_origin_ends_nothing_and_reads_nothing(browser, stream, status_port, web_port):
    host = f"127.0.0.1:{status_port}"
    browser.open(f"http://{host}/")
    session = browser.evaluate("fetch('sessions').then(answer => answer.json()).then(found => found[0].id)")
    browser.open(f"http://127.0.0.1:{web_port}/")
    results = browser.evaluate(TRY.replace("HOST", host).replace("ID", session)).split()
    assert results == ["failed"] * 9
    send(stream, 10)
    with contextlib.suppress(CommandFailed):  # the page leaves
        browser.evaluate(SUBMIT.replace("HOST", host).replace("ID", session))
    browser.until("document.body.innerText.includes('X-Socks5ext')")
    send(stream, 10)
