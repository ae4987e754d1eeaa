"""Endpoint strings that need no backslashes, or get them from us."""

import pytest
from support.certificates import Authority
from support.ways import listening_on_port
from twisted.internet import reactor
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory

from txsocksx_ext import endpoint_string
from txsocksx_ext.protocol.messages import Address
from txsocksx_ext.testing import FakeProxy, Recorder

EVERY_BYTE = bytes(range(256))


class Greeter(Protocol):
    def connectionMade(self):
        self.transport.write(b"hello")
        self.transport.loseConnection()


async def connected(text):
    protocol = await connectProtocol(clientFromString(reactor, text), Recorder())
    protocol.close()
    await protocol.until(lambda each: each.lost)


class TestWhereTheProxyIs:
    async def test_host_and_port_without_backslashes(self):
        fake = FakeProxy()
        async with listening_on_port(fake) as port:
            await connected(f"socks5ext:name.example:80:proxyhost=127.0.0.1:proxyport={port}")
            await connected(rf"socks5ext:name.example:80:proxy=127.0.0.1\:{port}")
        assert [each.destination for each in fake.requests] == [Address.of("name.example", 80)] * 2

    @pytest.mark.parametrize(
        ("keywords", "message"),
        [
            ("proxyport=1080", "takes proxyport only together with proxyhost="),
            (r"proxyhost=a.example:proxy=tcp\:b.example\:1", "takes either proxy= or proxyhost="),
            ("proxyhost=a.example:proxyport=http", "the proxyport of the endpoint socks5ext is a number, not 'http'"),
            ("proxyhost=a.example:proxyport=0", "there is no port 0"),
            ("proxyhost=a/b", "is neither a name nor an address"),
        ],
    )
    def test_faults(self, keywords, message):
        with pytest.raises(ValueError, match=message):
            clientFromString(reactor, f"socks5ext:name.example:80:{keywords}")


class TestColons:
    @pytest.mark.parametrize(
        ("written", "right"),
        [
            ("tcp:127.0.0.1:1080", r"tcp\:127.0.0.1\:1080"),
            ("127.0.0.1:1080", r"127.0.0.1\:1080"),
            ("http://127.0.0.1:3128", r"http\://127.0.0.1\:3128"),
            ("[::1]:1080", r"[\:\:1]\:1080"),
            ("unix:/run/socks", r"unix\:/run/socks"),
        ],
    )
    @pytest.mark.parametrize("more", ["", ":timeout=5"])
    def test_the_error_shows_the_form_that_works(self, written, right, more):
        kind = "httpconnect" if "http:" in written else "socks5ext"
        with pytest.raises(ValueError, match="arguments after HOST:PORT") as raised:
            clientFromString(reactor, f"{kind}:name.example:80:proxy={written}{more}")
        assert str(raised.value).endswith(rf"a colon inside a value is written \:, as in proxy={right}")
        assert clientFromString(reactor, f"{kind}:name.example:80:proxy={right}{more}")

    @pytest.mark.parametrize(
        "keywords",
        [
            "proxy=http://user:hunter2@127.0.0.1:1",
            "proxy=tcp:x:1:username=user:password=hunter2:x",
            "password=a:hunter2",
        ],
    )
    def test_the_error_shows_no_secret(self, keywords):
        with pytest.raises(ValueError, match=r"a colon inside a value is written \\:$") as raised:
            clientFromString(reactor, f"httpconnect:name.example:80:{keywords}")
        assert "hunter2" not in str(raised.value)


class TestTrustRoots:
    async def ask(self, trust):
        """What a target behind a proxy says to a client with these certificates."""
        options = self.authority.server_options("name.example")
        target = TLSMemoryBIOFactory(options, False, Factory.forProtocol(Greeter))
        async with listening_on_port(FakeProxy(target)) as port:
            proxy = {"proxyhost": "127.0.0.1", "proxyport": port}
            text = endpoint_string("name.example", 443, **proxy, tls=True, trustRoots=trust)
            protocol = await connectProtocol(clientFromString(reactor, text), Recorder())
            await protocol.until(lambda each: each.lost)
            return protocol.received

    @pytest.fixture(autouse=True)
    def _authorities(self, tmp_path):
        self.authority = Authority()
        for name, authority in (("right", self.authority), ("wrong", Authority())):
            (tmp_path / name).mkdir()
            (tmp_path / name / "authority.pem").write_bytes(authority.pem)
        (tmp_path / "empty").mkdir()
        (tmp_path / "faulty.pem").write_text("nothing")

    @pytest.mark.parametrize("place", ["right", "right/authority.pem"], ids=["folder", "file"])
    async def test_the_targets_certificate_is_checked_against_them(self, tmp_path, place):
        assert await self.ask(tmp_path / place) == b"hello"

    async def test_no_other_certificate_is_accepted(self, tmp_path):
        assert await self.ask(tmp_path / "wrong") == b""

    @pytest.mark.parametrize(
        ("place", "message"),
        [
            ("missing", "cannot be read from .*missing: No such file or directory"),
            ("empty", "there is no certificate in .*empty: its files have to end in .pem"),
            ("faulty.pem", "cannot be read from .*faulty.pem: it is no PEM certificate"),
        ],
    )
    def test_faults(self, tmp_path, place, message):
        with pytest.raises(ValueError, match=message):
            clientFromString(reactor, f"socks5ext:name.example:443:tls=yes:trustRoots={tmp_path / place}")

    def test_without_tls_they_are_refused(self, tmp_path):
        with pytest.raises(ValueError, match="takes trustRoots only together with tls=yes"):
            clientFromString(reactor, f"socks5ext:name.example:443:trustRoots={tmp_path / 'right'}")


class TestWriting:
    async def test_what_is_written_is_what_is_read(self):
        fake = FakeProxy()
        async with listening_on_port(fake) as port:
            for host in ("name.example", "2001:db8::1", "192.0.2.1"):
                text = endpoint_string(
                    host,
                    80,
                    proxy=f"tcp:127.0.0.1:{port}",
                    timeout=5,
                    allow_cleartext=False,
                    **{"tor.isolation": EVERY_BYTE, "?my_key.x=y": "a:b\\c"},
                )
                await connected(text)
        assert [each.destination.host for each in fake.requests] == ["name.example", "2001:db8::1", "192.0.2.1"]
        for each in fake.conversations:
            assert each.pairs == {"tor.isolation": EVERY_BYTE, "?my_key.x=y": b"a:b\\c"}

    def test_it_is_text_for_people_too(self):
        assert endpoint_string("name.example", 80) == "socks5ext:name.example:80"
        written = endpoint_string(
            "::1", 80, kind="httpconnect", proxy="http://[::1]:3128", password_file="a:b", tls=True
        )
        assert written == r"httpconnect:\:\:1:80:proxy=http\://[\:\:1]\:3128:password-file=a\:b:tls=yes"

    @pytest.mark.parametrize(
        "keywords",
        [{"kind": "tcp"}, {"passwort": "hunter2"}, {"pass_word": "x"}, {"kind": "socks4a", "dialect": "tor"}],
    )
    def test_faults(self, keywords):
        with pytest.raises(ValueError, match=r"no kind 'tcp'|does not know (?:pass|dialect)"):
            endpoint_string("name.example", 80, **keywords)
