"""The whole: `twistd socks5ext` on every kind of listener, and listeners that it refuses."""

import datetime
import ipaddress
import socket

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from support.programs import free_port, has_written, need
from support.targets import PAGE, curl, echoes, local
from twisted.internet import endpoints
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    clientFromString,
)
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates


async def test_a_unix_socket_serves(socks5ext, web_port, tmp_path):
    from twisted.internet import reactor

    path = tmp_path / "socket"
    socks5ext(listen=[f"unix:{path}"])
    assert await echoes(UNIXClientEndpoint(reactor, str(path)), {"login": ("any", "thing")})
    fetched = curl("--proxy", f"socks5h://localhost{path}", f"http://127.0.0.1:{web_port}/")
    assert (fetched.returncode, fetched.stdout) == (0, PAGE), fetched.stderr


def make_certificate(path):
    """A key, and a certificate signed with it, for this machine's own names."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(certificate.public_bytes(encoding) + private)


async def test_tls_serves_beside_a_plain_listener(socks5ext, tmp_path):
    from twisted.internet import reactor

    pem = tmp_path / "localhost.pem"
    make_certificate(pem)
    plain, encrypted = free_port(), free_port()
    server = socks5ext(
        listen=[
            f"tcp:{plain}:interface=127.0.0.1",
            f"ssl:{encrypted}:interface=127.0.0.1:privateKey={pem}:certKey={pem}",
        ]
    )
    assert has_written(server, f"starting on {encrypted}")
    proxy = clientFromString(reactor, f"tls:127.0.0.1:{encrypted}:trustRoots={tmp_path}")
    assert await echoes(proxy, {"extended": {"USERNAME": "any", "PASSWD": "thing"}})
    assert await echoes(local(plain))


@pytest.mark.skipif(not hasattr(endpoints, "_TLSServerEndpointParser"), reason="this Twisted has no tls: to listen on")
async def test_tls_serves_with_certificates_from_a_folder(socks5ext, tmp_path):
    from twisted.internet import reactor

    pem = tmp_path / "localhost.pem"
    make_certificate(pem)
    port = free_port()
    socks5ext(listen=[f"tls:{tmp_path}:{port}:interface=\\:\\:1"])
    trusted = trustRootFromCertificates([Certificate.loadPEM(pem.read_bytes())])
    proxy = endpoints.wrapClientTLS(optionsForClientTLS("localhost", trusted), TCP6ClientEndpoint(reactor, "::1", port))
    assert await echoes(proxy, {"login": ("any", "thing")})


@pytest.fixture
def haproxy(program, tmp_path):
    """Start a haproxy: ``haproxy(bind, server)`` with what follows these words in its configuration."""

    def start(bind, server, **options):
        config = tmp_path / "haproxy.cfg"
        config.write_text(
            f"""
defaults
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s
listen front
    bind {bind}
    server back {server}
"""
        )
        return program([need("haproxy"), "-db", "-f", config], **options)

    return start


def fetch(web_port, *options):
    fetched = curl(*options, f"http://127.0.0.1:{web_port}/")
    assert (fetched.returncode, fetched.stdout) == (0, PAGE), fetched.stderr


@pytest.mark.parametrize("protocol", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn"])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_behind_haproxy_the_log_shows_the_clients_own_address(socks5ext, haproxy, web_port, tmp_path, protocol, kind):
    back, front = free_port(), free_port()
    path = tmp_path / "back"
    listen, place = {
        "tcp": (f"tcp:{back}:interface=127.0.0.1", f"127.0.0.1:{back}"),
        "unix": (f"unix:{path}", f"unix@{path}"),
    }[kind]
    server = socks5ext(listen=[f"haproxy:{listen}"])
    haproxy(f"127.0.0.1:{front}", f"{place} {protocol}", port=front)
    fetch(web_port, "--interface", "127.0.0.9", "--socks5", f"127.0.0.1:{front}")
    assert has_written(server, "127.0.0.9 CONNECT")
    assert "Traceback" not in server.output


async def test_haproxy_tells_of_the_clients_tls(socks5ext, haproxy, tmp_path):
    """With TLVs that say which TLS the client speaks."""
    from twisted.internet import reactor

    back, front = free_port(), free_port()
    server = socks5ext(listen=[f"haproxy:tcp:{back}:interface=127.0.0.1"])
    pem = tmp_path / "localhost.pem"
    make_certificate(pem)
    options = "proxy-v2-options ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c,unique-id"
    haproxy(f"127.0.0.1:{front} ssl crt {pem}", f"127.0.0.1:{back} send-proxy-v2-ssl {options}", port=front)
    trusted = trustRootFromCertificates([Certificate.loadPEM(pem.read_bytes())])
    way = TCP4ClientEndpoint(reactor, "127.0.0.1", front, bindAddress=("127.0.0.9", 0))
    proxy = endpoints.wrapClientTLS(optionsForClientTLS("localhost", trusted), way)
    assert await echoes(proxy, {"login": ("any", "thing")})
    assert has_written(server, "127.0.0.9 CONNECT")


@pytest.mark.parametrize("protocol", ["send-proxy", "send-proxy-v2"])
async def test_a_client_on_a_unix_socket_of_haproxy_is_served(socks5ext, haproxy, tmp_path, protocol):
    """haproxy says no more of it than UNKNOWN, or with version 2 UNSPEC."""
    from twisted.internet import reactor

    back, front = free_port(), tmp_path / "front"
    server = socks5ext(listen=[f"haproxy:tcp:{back}:interface=127.0.0.1"])
    haproxy(f"unix@{front}", f"127.0.0.1:{back} {protocol}", ready=lambda _: front.exists())
    assert await echoes(UNIXClientEndpoint(reactor, str(front)), {"anonymous": ()})
    assert has_written(server, "127.0.0.1 CONNECT")


@pytest.mark.parametrize("protocol", ["send-proxy", "send-proxy-v2"])
def test_haproxy_finds_a_server_healthy_that_answers_its_greeting(socks5ext, haproxy, web_port, protocol):
    back, front = free_port(), free_port()
    server = socks5ext(listen=[f"haproxy:tcp:{back}:interface=127.0.0.1"])
    checks = "option tcp-check\n    tcp-check send-binary 050100\n    tcp-check expect binary 0500"
    haproxy(
        f"127.0.0.1:{front}\n    {checks}",
        f"127.0.0.1:{back} {protocol} check check-send-proxy inter 200ms",
        port=front,
    )
    assert has_written(server, "127.0.0.1 - protocol=socks5 method=NO_AUTHENTICATION")
    fetch(web_port, "--interface", "127.0.0.9", "--socks5", f"127.0.0.1:{front}")
    assert "PROXY" not in server.output


def test_a_listener_that_others_could_sniff_is_refused(socks5ext):
    for interface in ("", ":interface=0.0.0.0"):
        with pytest.raises(
            AssertionError, match=r"ended with 1: socks5ext: --listen tcp:.*or say --allow-remote"
        ) as caught:
            socks5ext(listen=[f"tcp:{free_port()}{interface}"])
        assert "Traceback" not in str(caught.value)


def test_a_port_in_use_ends_the_program(socks5ext):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AssertionError, match=rf"ended with 1: (?s:.*)\b{port}\b.*Address already in use"):
            socks5ext(listen=[f"tcp:{port}:interface=127.0.0.1"])
