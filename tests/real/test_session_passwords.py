"""The whole: `twistd socks5ext` with passwords, and who comes in."""

import sys

import pytest
from support.programs import twistd
from support.targets import CURL_PROXY_FAILED, PAGE, curl, echoes, failure_of, local, programs, run, talk_to

from txsocksx_ext.errors import AuthenticationFailed, NoAcceptableMethod

PASSWORD = "correct horse"


@pytest.fixture(scope="module", params=["memory", "file", "hashed"])
def guarded(request, tmp_path_factory):
    """A server that lets in alice alone."""
    path = tmp_path_factory.mktemp("passwords") / "passwords"
    if request.param == "hashed":
        maker = run(sys.executable, "-m", "txsocksx_ext.server.passwords", "alice", given=f"{PASSWORD}\n".encode())
        assert maker.returncode == 0, maker.stderr
        path.write_bytes(maker.stdout)
        assert PASSWORD not in path.read_text()
    else:
        path.write_text(f"alice:{PASSWORD}\n")
    with programs() as start:
        where = f"alice:{PASSWORD}" if request.param == "memory" else path
        yield twistd(start, f"--auth={request.param}:{where}")


def test_curl_logs_in(guarded, web_port):
    page = f"http://127.0.0.1:{web_port}/"
    proxy = ("--socks5", f"127.0.0.1:{guarded.port}")
    fetched = curl(*proxy, "--proxy-user", f"alice:{PASSWORD}", page)
    assert (fetched.returncode, fetched.stdout) == (0, PAGE), fetched.stderr
    for user in (["--proxy-user", "alice:wrong"], ["--proxy-user", f"bob:{PASSWORD}"], []):
        assert curl(*proxy, *user, page).returncode == CURL_PROXY_FAILED


@pytest.mark.parametrize(
    "methods_of",
    [lambda user, word: {"login": (user, word)}, lambda user, word: {"extended": {"USERNAME": user, "PASSWD": word}}],
    ids=["rfc1929", "pairs"],
)
async def test_our_client_logs_in(guarded, methods_of):
    proxy = local(guarded.port)
    assert await echoes(proxy, methods_of("alice", PASSWORD))
    for user, word in [("alice", "wrong"), ("bob", PASSWORD)]:
        error = await failure_of(talk_to("127.0.0.1", 80, proxy, methods_of(user, word)))
        assert type(error) is AuthenticationFailed
        assert error.status == 1
    error = await failure_of(talk_to("127.0.0.1", 80, proxy))
    assert type(error) is AuthenticationFailed
    error = await failure_of(talk_to("127.0.0.1", 80, proxy, {"anonymous": ()}))
    assert type(error) is NoAcceptableMethod
    assert PASSWORD not in guarded.output


async def test_anonymous_opens_the_door_beside_passwords(socks5ext):
    server = socks5ext(f"--auth=memory:alice:{PASSWORD}", "--anonymous")
    assert await echoes(local(server.port), {"anonymous": ()})
    assert await echoes(local(server.port), {"login": ("alice", PASSWORD)})
    assert (
        type(await failure_of(talk_to("127.0.0.1", 80, local(server.port), {"login": ("alice", "wrong")})))
        is AuthenticationFailed
    )
